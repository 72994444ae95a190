"""A run's folder: what is written while it runs, and from what it resumes.

    run.json                     what the run is made of; other data or another recipe is refused
    trajectories/<model>.jsonl   a line an epoch, appended
    ledger.jsonl                 a line a finished model, appended
    recall.json, recall/         which models were chosen of a long list, and by what scores
    time.json                    seconds that all calls took together
    checkpoints/<model>/         the state after the last epoch, while the model is under way; of
                                 the first models it stays, for `ncap_jax.run.finishing`

Everything is written so that a run can resume after a kill at any moment. An epoch is first a
line of its trajectory, then a checkpoint. Of a line without its checkpoint the epoch is trained
again, which comes to the same state; it is not measured again. Damage costs time only: the epoch or
the model is repeated, with a warning.

A run may grow here (`ncap_jax.run.fingerprint`). Every epoch that was ever recorded stays, and is
not measured again in any later call; what a call ranks of them is `ncap_jax.run.recorded`.

With several processes (`ncap_jax.distributed`) every method is called by all of them, in the same
order. The primary one reads and writes; what it finds, and what goes wrong, all know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import filelock

from ncap_jax import distributed, errors, files
from ncap_jax.finetune import trajectory_files
from ncap_jax.run import ledger
from ncap_jax.run.fingerprint import RUN_FILE, conflicts, differences, grown
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.run.recorded import Recorded
from ncap_jax.types import Trajectory

# These are the model's own doing and come again; the causes of others may be gone by now.
FINAL = ("ok", "diverged")
# Facts of run.json on which rounding depends.
ROUNDING = ("versions", "device", "threads")


class RunFolder:
    """The folder of one run, locked against a second run; use it as a context.

    Args:
        path: of the folder; made if it is not there.
        facts: content of `run.json`.

    Attributes:
        files: of the models.

    Raises:
        OutputError: it cannot be written, another process works in it, or it holds a run on other
            data or by another recipe (the fields that differ are named).
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]):
        self.path = pathlib.Path(path)
        self.files = ModelFiles(path)
        self._facts = json.loads(files.to_json(dict(facts)))
        self._lock: filelock.FileLock | None = None
        self._made: list[pathlib.Path] = []
        self._new = False
        # What `recorded` found: each model's last end, and the lines of its trajectory.
        self._ends: dict[str, ledger.Entry] = {}
        self._lines: dict[str, int] = {}
        distributed.on_primary(self._open)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not agreed upon: an exception may have brought this process here alone.
        if self._lock is None:
            return
        if isinstance(error, errors.NcapError):
            self._remove_if_empty()
        self._lock.release()

    def _remove_if_empty(self) -> None:
        """What was refused before anything was recorded leaves nothing behind."""
        trajectories = self.path / trajectory_files.FOLDER
        ours = {trajectories, *(self.path / name for name in (RUN_FILE, ".lock"))}
        if not self._new or {*trajectories.glob("*"), *self.path.glob("*")} - ours:
            return
        for file in ours - {trajectories}:
            file.unlink(missing_ok=True)
        for folder in (trajectories, *self._made):
            with contextlib.suppress(OSError):  # somebody else has put something there
                folder.rmdir()

    def _open(self) -> None:
        trajectories = self.path / trajectory_files.FOLDER
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            trajectories.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / ".lock", blocking=False)
            self._lock.acquire()
        except filelock.Timeout:
            raise errors.OutputError(
                f"another process is working in {self.path}",
                "Wait for it, or choose another folder",
            ) from None
        except OSError as error:
            raise errors.OutputError(
                f"cannot write to {self.path}: {error.strerror}",
                "Choose a folder that you may write to",
            ) from error
        try:
            for place in (self.path, trajectories):
                files.remove_temporary(place)
            self._claim()
        except BaseException:
            self._lock.release()
            raise

    def _claim(self) -> None:
        """Write run.json, or check that the one that is there belongs to the same run."""
        file = self.path / RUN_FILE
        if not file.exists():
            files.write_atomically(file, json.dumps(self._facts, indent=1) + "\n")
            self._new = True
            return
        self._warn_of_rounding(self._check())

    def _check(self) -> dict[str, Any]:
        """The content of run.json, which belongs to the same run."""
        file = self.path / RUN_FILE
        try:
            existing = json.loads(file.read_text(encoding="utf-8"))
            changed = conflicts(existing, self._facts)
        except (OSError, *files.DAMAGE) as error:
            raise errors.OutputError(
                f"{file} cannot be read: {error}", "Choose another folder, or remove this one"
            ) from error
        if changed:
            raise errors.OutputError(
                f"{self.path} holds another run; different: {'; '.join(changed[:5])}",
                "Choose another folder, or repeat the same run to resume it",
            )
        return existing

    def _warn_of_rounding(self, existing: Mapping[str, Any]) -> None:
        """Say so if the run resumes where arithmetic rounds differently: its models will mix."""
        known = [name for name in ROUNDING if name in existing]
        moved = differences(_rounding(existing, known), _rounding(self._facts, known), "run")
        if moved:
            warnings.warn(
                f"{self.path} was begun in another way ({'; '.join(moved[:5])}): from here on "
                "numbers may round differently. For a ranking made in one way, choose another "
                "folder",
                stacklevel=2,
            )

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Say what the run is made of, once its models are known (`ncap_jax.run.recall`).

        Args:
            facts: content of `run.json`; it replaces that given at first.

        Raises:
            OutputError: the folder holds these models with other weights.
        """
        self._facts = json.loads(files.to_json(dict(facts)))
        distributed.on_primary(self._check)

    @property
    def earlier(self) -> dict[str, Any]:
        """The options of the latest ranking in the folder: until `grow`, of an earlier call."""
        return distributed.on_primary(self._check)["config"]

    def grow(self) -> None:
        """Enter into `run.json` what the folder holds from now on."""
        distributed.on_primary(self._grow)

    def _grow(self) -> None:
        file = self.path / RUN_FILE
        existing = json.loads(file.read_text(encoding="utf-8"))
        content = grown(existing, self._facts)
        if content != existing:
            files.write_atomically(file, json.dumps(content, indent=1) + "\n")

    def finish(self, trajectory: Trajectory) -> None:
        """Enter a model's end into the ledger; its checkpoint stays until `keep_states`."""
        end = ledger.Entry(
            trajectory.model,
            trajectory.status,
            trajectory.message,
            trajectory.seconds,
            records=len(trajectory.records),
        )
        distributed.on_primary(partial(self._enter, end))

    def _enter(self, end: ledger.Entry) -> None:
        """Add a line to the ledger, unless the model's last one says the same."""
        last = self._ends.get(end.model)
        if last is None or dataclasses.replace(last, seconds=end.seconds) != end:
            ledger.append(self.path, end)
        self._ends[end.model] = end

    def keep_states(self, ended: Iterable[Trajectory], kept: Collection[str]) -> None:
        """Remove the checkpoints of models that have ended for good, apart from those to keep.

        Args:
            ended: models that ended. Who may still be tried again keeps its checkpoint, and so
                does who was trained further before than it is ranked now.
            kept: names of those to keep.
        """
        for trajectory in ended:
            further = self._lines.get(trajectory.model, 0) > len(trajectory.records)
            if trajectory.status in FINAL and trajectory.model not in kept and not further:
                self.files.checkpoints(trajectory.model).remove()

    def recorded(self) -> dict[str, Recorded]:
        """What need not be trained again, of the models of this run that have an epoch; by name.

        A model that has not ended counts up to its checkpoint: what was recorded after it is
        trained again, so that the state is there too.
        """
        found = distributed.on_primary(self._recorded)
        known = {}
        for model, (lines, whole, seconds, note) in found.items():
            state = self._state(model)
            count = max(whole, 0 if state is None else state + 1)
            records = tuple(map(trajectory_files.parse, lines[:count]))
            self._lines[model] = len(lines)
            if records:
                known[model] = Recorded(model, records, state, seconds, note)
        return known

    def _recorded(self) -> dict[str, list[Any]]:
        """Model -> records, how many were there when it ended, seconds, and its batches' note."""
        entries = ledger.read(self.path)
        self._ends = {entry.model: entry for entry in entries}
        whole, found = ledger.whole(entries), dict[str, list[Any]]()
        halved = {entry.model: entry.message for entry in reversed(entries) if entry.half_batch}
        for model in self._facts["models"]:
            seen = self.files.sound(model)
            if len(seen) < whole.get(model, 0):
                file = self.files.trajectory(model)
                warnings.warn(
                    f"{file} is damaged: {model} trains again what is missing", stacklevel=2
                )
            end = self._ends.get(model)
            taken = sum(record.seconds for record in seen)
            seconds = end.seconds if end is not None and end.records == len(seen) else taken
            lines = list(map(trajectory_files.to_json, seen))
            found[model] = [lines, whole.get(model, 0), seconds, halved.get(model, "")]
        return found

    def _state(self, model: str) -> int | None:
        """The epoch of a model's checkpoint; a damaged one is the worker's to repair."""
        with contextlib.suppress(errors.CheckpointError):
            return self.files.checkpoints(model).latest()
        return None


def _rounding(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Facts with these names, and whether nodes of a cluster train: they may be other machines."""
    on_cluster = facts["config"].get("executor") == "ray"
    where = "ray" if on_cluster else "this machine"
    return {**{name: facts.get(name) for name in names}, "executor": where}
