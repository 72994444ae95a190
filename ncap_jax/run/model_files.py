"""The files of a run's models, as a worker needs them: trajectories and checkpoints."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from ncap_jax import distributed, files
from ncap_jax.finetune import trajectory_files
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.run import ledger
from ncap_jax.types import EpochRecord


class Position(NamedTuple):
    """How far a model has come.

    `records`: of its trajectory. `state`: the epoch of its newest checkpoint, at most the last
    record's; None: there is none.
    """

    records: tuple[EpochRecord, ...] = ()
    state: int | None = None


class ModelFiles:
    """The files of a run's models.

    Args:
        path: of the run's folder, which exists; a worker on another machine has its own.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)

    def append(self, model: str, record: EpochRecord) -> None:
        """Add one epoch to a model's trajectory."""
        distributed.on_primary(partial(trajectory_files.append, self.trajectory(model), record))

    def checkpoints(self, model: str) -> Checkpoints:
        """Where a model's state is kept while it is under way."""
        return Checkpoints(self.path / "checkpoints" / model)

    def resume_point(self, model: str) -> tuple[EpochRecord, ...]:
        """The records to resume after: those up to the last checkpoint, whose epoch is the last's.

        Records after it, and damaged lines, are cut off the file. Without a usable checkpoint
        the model starts again and there are none.
        """
        records, state = self.position(model)
        if state is None:
            self.start_again(model)
            return ()
        kept = records[: state + 1]
        distributed.on_primary(partial(self._write, model, kept))
        return kept

    def position(self, model: str) -> Position:
        """How far a model has come; damaged lines, and a state ahead of the lines, are removed.

        Raises:
            CheckpointError: the folder of the states is damaged.
        """
        state = self.checkpoints(model).latest()
        lines = distributed.on_primary(partial(self._cut_damage, model))
        if state is not None and state >= len(lines):
            self.checkpoints(model).remove()
            state = None
        return Position(tuple(map(trajectory_files.parse, lines)), state)

    def _cut_damage(self, model: str) -> list[dict[str, Any]]:
        """Cut a trajectory before its first damaged line; its records as JSON."""
        file = self.trajectory(model)
        kept = self.sound(model)
        if file.is_file() and len(files.read_lines(file)) != len(kept):
            self._write(model, kept)
        return list(map(trajectory_files.to_json, kept))

    def _write(self, model: str, records: Iterable[EpochRecord]) -> None:
        text = "".join(f"{trajectory_files.line(record)}\n" for record in records)
        files.write_atomically(self.trajectory(model), text)

    def sound(self, model: str) -> list[EpochRecord]:
        """The records of a model's trajectory from epoch 0 on, before any damage; primary only."""
        lines = enumerate(trajectory_files.read_sound(self.trajectory(model)))
        following = itertools.takewhile(lambda line: line[0] == line[1].epoch, lines)
        return [record for _, record in following]

    def start_again(self, model: str) -> None:
        """Forget what a model has done so far."""
        self.checkpoints(model).remove()
        distributed.on_primary(partial(self._remove_trajectory, model))

    def _remove_trajectory(self, model: str) -> None:
        if ledger.whole(ledger.read(self.path)).get(model):
            # Else its new trajectory would count as damaged until it is as long as the old one.
            ledger.append(self.path, ledger.Entry(model, "stopped", "starts again", 0.0, records=0))
        self.trajectory(model).unlink(missing_ok=True)

    def halve_batch(self, model: str, note: str) -> None:
        """Enter that a model starts again at half the batch, for lack of memory."""
        # In this order: with the entry first, a kill here would mix the two ways in one model.
        self.start_again(model)
        again = ledger.Entry(model, "out_of_memory", note, 0.0, records=0, half_batch=True)
        distributed.on_primary(partial(ledger.append, self.path, again))

    def halving_note(self, model: str) -> str:
        """The note with which a model's batch was halved, for good in this folder, or nothing."""

        def note() -> str:
            entries = (e for e in ledger.read(self.path) if e.model == model and e.half_batch)
            return next((entry.message for entry in entries), "")

        return distributed.on_primary(note)

    def trajectory(self, model: str) -> pathlib.Path:
        """Path of a model's trajectory."""
        return self.path / trajectory_files.FOLDER / f"{model}.jsonl"
