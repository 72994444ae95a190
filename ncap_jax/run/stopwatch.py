"""How long the calls in a folder have taken together: its `time.json`.

It is written after every epoch, so that a kill loses no more of the time than of the work. Where
epochs were recorded without it, or it is damaged, the time remains unknown.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import time
from types import TracebackType

from ncap_jax import errors, files
from ncap_jax.finetune import trajectory_files
from ncap_jax.types import EpochRecord, Trajectory

FILE = "time.json"


class Stopwatch:
    """The wall time of one call and of those before it in the same folder.

    Use it as a context: at the end it writes once more. Of a call that fails before any epoch it
    writes nothing. It is a watcher (`ncap_jax.types.Watcher`). A time that cannot be written ends
    no run.

    Args:
        folder: that keeps the time; None: none does.
        began: when the call began, by `time.monotonic`.
    """

    def __init__(self, folder: pathlib.Path | None, began: float):
        self._folder, self._began = folder, began
        self._before: float | None = 0.0
        if folder is not None and (
            (folder / FILE).exists() or any((folder / trajectory_files.FOLDER).glob("*.jsonl"))
        ):
            self._before = read(folder)

    @property
    def seconds(self) -> float | None:
        """Until now, the calls before this one included; None: not known."""
        return None if self._before is None else self._before + time.monotonic() - self._began

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Keep the time after an epoch."""
        self._write()

    def finished(self, trajectory: Trajectory) -> None:
        """Keep the time after a model."""
        self._write()

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or (self._folder is not None and (self._folder / FILE).exists()):
            self._write()

    def _write(self) -> None:
        seconds = self.seconds
        if self._folder is not None and seconds is not None:
            with contextlib.suppress(errors.OutputError):
                text = files.to_json({"seconds": round(seconds, 3)})
                files.write_atomically(self._folder / FILE, f"{text}\n")


def read(folder: pathlib.Path) -> float | None:
    """The seconds that a folder keeps; None: none, or they are damaged."""
    try:
        seconds = float(json.loads((folder / FILE).read_text(encoding="utf-8"))["seconds"])
    except (OSError, *files.DAMAGE):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
