"""A run's folder for several processes that fine-tune one model together (`finetune.parallel`).

The first process reads and writes it, as any run's folder; the others may be on machines that do
not see it. What it finds, and what goes wrong with it, all know: so they agree which models are
finished, from which epoch and which state a model goes on, and when it starts again.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from ncap_jax.finetune import parallel, records
from ncap_jax.finetune.checkpoints import Checkpoints, SharedCheckpoints
from ncap_jax.run_folder import RunFolder
from ncap_jax.types import EpochRecord, Head, Trajectory

T = TypeVar("T")


class SharedFolder(RunFolder):
    """The folder of one run, opened by all its processes.

    Every method is called by all of them, in the same order. It returns the same in each, or
    raises the same: see `parallel.first_does`.

    Args:
        path: of the folder, where the first process finds it.
        facts: see `RunFolder`; the first process's count.

    Raises:
        OutputError: see `RunFolder`; in every process.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]):
        self.path = pathlib.Path(path)
        self._folder: RunFolder | None = None

        def claim() -> None:
            self._folder = RunFolder(path, facts)

        parallel.first_does(claim)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not agreed upon: an exception may have brought this process here alone.
        if self._folder is not None:
            self._folder.__exit__(kind, error, traceback)

    def append(self, model: str, record: EpochRecord) -> None:
        """See `RunFolder.append`."""
        self._first_does(lambda folder: folder.append(model, record))

    def checkpoints(self, model: str) -> Checkpoints:
        """See `RunFolder.checkpoints`."""
        return SharedCheckpoints(super().checkpoints(model).folder)

    def resume_point(self, model: str) -> tuple[EpochRecord, ...]:
        """See `RunFolder.resume_point`."""
        lines = self._first_does(
            lambda folder: [records.to_json(record) for record in folder.resume_point(model)]
        )
        return tuple(map(records.parse, lines))

    def start_again(self, model: str) -> None:
        """See `RunFolder.start_again`."""
        self._first_does(lambda folder: folder.start_again(model))

    def finish(self, trajectory: Trajectory) -> None:
        """See `RunFolder.finish`; the first process's trajectory is entered."""
        self._first_does(lambda folder: folder.finish(trajectory))

    def halve(self, model: str, note: str) -> None:
        """See `RunFolder.halve`."""
        self._first_does(lambda folder: folder.halve(model, note))

    def halved(self, model: str) -> str:
        """See `RunFolder.halved`."""
        return self._first_does(lambda folder: folder.halved(model))

    def finished(self, head: Head) -> dict[str, Trajectory]:
        """See `RunFolder.finished`."""
        told = self._first_does(
            lambda folder: {name: _to_json(t) for name, t in folder.finished(head).items()}
        )
        return {name: _parse(fields) for name, fields in told.items()}

    def _first_does(self, action: Callable[[RunFolder], T]) -> T:
        def act() -> T:
            assert self._folder is not None, "the first process has the folder"
            return action(self._folder)

        return parallel.first_does(act)


def _to_json(trajectory: Trajectory) -> dict[str, Any]:
    return {**vars(trajectory), "records": [records.to_json(r) for r in trajectory.records]}


def _parse(fields: dict[str, Any]) -> Trajectory:
    return Trajectory(**{**fields, "records": tuple(map(records.parse, fields["records"]))})
