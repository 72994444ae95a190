"""A run's folder: what is written while it runs, and what of it is taken up again.

    run.json                     what the run is made of; another run's folder is refused
    trajectories/<model>.jsonl   a line an epoch, appended
    ledger.jsonl                 a line a finished model, appended
    checkpoints/<model>/         the state after the last epoch, while the model is under way

Everything is written so that a kill at any moment leaves a folder to go on from. An epoch is
first a line of its trajectory, then a checkpoint: a line without its checkpoint is cut off again
and the epoch repeated, which gives the same numbers. What is damaged costs time only: the epoch or
the model is repeated, with a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import filelock

from ncap_jax import errors, ledger
from ncap_jax.finetune import records
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.report.files import TEMPORARY, strict, write_atomically
from ncap_jax.types import FREE_FIELDS, EpochRecord, Head, Trajectory

RUN_FILE = "run.json"
# What must be equal for a run to go on; the rest of run.json may differ (versions, device, time).
FINGERPRINT = ("config", "models", "data")
# These are the model's own doing and come again; the others may have been mended meanwhile.
FINAL = ("ok", "diverged")


class RunFolder:
    """The folder of one run, locked against a second process; use it as a context.

    Args:
        path: the folder; made if it is not there.
        facts: content of `run.json`; `FINGERPRINT` names the part that must not change.

    Raises:
        OutputError: it cannot be written, another process works in it, or it holds a run of
            another configuration (the fields that differ are named).
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]):
        self.path = pathlib.Path(path)
        self._facts = json.loads(json.dumps(strict(dict(facts))))
        try:
            (self.path / records.FOLDER).mkdir(parents=True, exist_ok=True)
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
            remove_leftovers(self.path)
            self._claim()
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def joined(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder as a worker of the process that holds the lock has it: its models' files."""
        folder = cls.__new__(cls)
        folder.path = pathlib.Path(path)
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _claim(self) -> None:
        """Write run.json, or check that the one that is there belongs to the same run."""
        file = self.path / RUN_FILE
        if not file.exists():
            write_atomically(file, json.dumps(self._facts, indent=1) + "\n")
            return
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
            changed = [
                name
                for part in FINGERPRINT
                for name in differences(
                    fixed(there.get(part), part), fixed(self._facts[part], part), part
                )
            ]
        except (OSError, AttributeError, *records.DAMAGE) as error:
            raise errors.OutputError(
                f"{file} cannot be read: {error}", "Choose another folder, or remove this one"
            ) from error
        if changed:
            raise errors.OutputError(
                f"{self.path} holds another run; different: {'; '.join(changed[:5])}",
                "Choose another folder, or repeat the run as it was to go on with it",
            )

    def append(self, model: str, record: EpochRecord) -> None:
        """Add one epoch to a model's trajectory."""
        records.append(self._trajectory(model), record)

    def checkpoints(self, model: str) -> Checkpoints:
        """Where a model's state is kept while it is under way."""
        return Checkpoints(self.path / "checkpoints" / model)

    def resume_point(self, model: str) -> tuple[EpochRecord, ...]:
        """The records to go on from: those up to the last checkpoint, whose epoch is the last's.

        Records after it, and damaged lines, are cut off the file. Without a usable checkpoint
        the model starts again and there are none.
        """
        epoch = self.checkpoints(model).latest()
        if epoch is not None:
            kept = records.sound(self._trajectory(model))[: epoch + 1]
            if [record.epoch for record in kept] == list(range(epoch + 1)):
                text = "".join(records.line(record) for record in kept)
                write_atomically(self._trajectory(model), text)
                return kept
        self.start_again(model)
        return ()

    def start_again(self, model: str) -> None:
        """Forget what a model has done so far."""
        self.checkpoints(model).remove()
        self._trajectory(model).unlink(missing_ok=True)

    def finish(self, trajectory: Trajectory) -> None:
        """Enter a model's end into the ledger; its checkpoint is no longer needed."""
        end = ledger.Entry(
            trajectory.model,
            trajectory.status,
            trajectory.message,
            trajectory.seconds,
            records=len(trajectory.records),
        )
        ledger.append(self.path, end)
        if trajectory.status in FINAL:
            self.checkpoints(trajectory.model).remove()

    def halve(self, model: str, note: str) -> None:
        """Enter that a model starts again at half the batch, for lack of memory."""
        # In this order: with the entry first, a kill here would mix the two ways in one model.
        self.start_again(model)
        again = ledger.Entry(model, "out_of_memory", note, 0.0, records=0, half_batch=True)
        ledger.append(self.path, again)

    def halved(self, model: str) -> str:
        """The note with which a model was halved, for good in this folder; empty if it was not."""
        notes = (e.message for e in ledger.read(self.path) if e.model == model and e.half_batch)
        return next(notes, "")

    def finished(self, head: Head) -> dict[str, Trajectory]:
        """Models that need not be run again, by name."""
        ends = {entry.model: entry for entry in ledger.read(self.path)}  # the last one counts
        found: dict[str, Trajectory] = {}
        for model in self._facts["models"]:
            end = ends.get(model)
            if end is None or end.status not in FINAL:
                continue
            seen = records.sound(self._trajectory(model))
            if [record.epoch for record in seen] != list(range(end.records)):
                warnings.warn(
                    f"{self._trajectory(model)} is damaged: {model} starts again", stacklevel=2
                )
                continue
            self.checkpoints(model).remove()  # a kill may have stopped the removal half-way
            found[model] = Trajectory(
                model, head, seen, status=end.status, message=end.message, seconds=end.seconds
            )
        return found

    def _trajectory(self, model: str) -> pathlib.Path:
        return self.path / records.FOLDER / f"{model}.jsonl"


def remove_leftovers(folder: pathlib.Path) -> None:
    """Remove the half-written files that a kill left; only for whoever holds the lock."""
    for place in (folder, folder / records.FOLDER):
        for file in place.glob(f".*{TEMPORARY}"):
            with contextlib.suppress(OSError):
                file.unlink()


def fixed(part: Any, name: str) -> Any:
    """A part of run.json without what may change when a run is taken up."""
    if name != "config" or not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if key not in FREE_FIELDS}


def differences(there: Any, here: Any, name: str) -> list[str]:
    """Names and values of what differs between two JSON values."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            found
            for key in sorted(set(there) | set(here))
            for found in differences(there.get(key), here.get(key), f"{name}.{key}")
        ]
    return [] if there == here else [f"{name} was {_short(there)}, is {_short(here)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
