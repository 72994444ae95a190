"""A run's folder: what is written while it runs, and from what it resumes.

    run.json                     what the run is made of; another run's folder is refused
    trajectories/<model>.jsonl   a line an epoch, appended
    ledger.jsonl                 a line a finished model, appended
    checkpoints/<model>/         the state after the last epoch, while the model is under way; of
                                 the first models it stays, for `ncap_jax.run.finishing`

Everything is written so that a run can resume after a kill at any moment. An epoch is first a
line of its trajectory, then a checkpoint: a line without its checkpoint is cut off again and the
epoch repeated, which gives the same numbers. Damage costs time only: the epoch or the model is
repeated, with a warning.

With several processes (`ncap_jax.distributed`) every method is called by all of them, in the same
order. The primary one reads and writes; what it finds, and what goes wrong, all know.
"""

from __future__ import annotations

import contextlib
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
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import Head
from ncap_jax.run import ledger
from ncap_jax.run.fingerprint import FINGERPRINT, RUN_FILE, differences, fixed
from ncap_jax.types import EpochRecord, Trajectory

# These are the model's own doing and come again; the causes of others may be gone by now.
FINAL = ("ok", "diverged")
# Facts of run.json on which rounding depends.
ROUNDING = ("versions", "device", "threads")


class ModelFiles:
    """The files of a run's models, as a worker needs them: trajectories and checkpoints.

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
        epoch = self.checkpoints(model).latest()
        kept = distributed.on_primary(partial(self._cut_after, model, epoch))
        if not kept:
            self.start_again(model)
        return tuple(map(trajectory_files.parse, kept))

    def _cut_after(self, model: str, epoch: int | None) -> list[dict[str, Any]]:
        """Cut a trajectory after an epoch; its records as JSON, none if they do not reach it."""
        if epoch is None:
            return []
        kept = trajectory_files.read_sound(self.trajectory(model))[: epoch + 1]
        if [record.epoch for record in kept] != list(range(epoch + 1)):
            return []
        text = "".join(f"{trajectory_files.line(record)}\n" for record in kept)
        files.write_atomically(self.trajectory(model), text)
        return [trajectory_files.to_json(record) for record in kept]

    def start_again(self, model: str) -> None:
        """Forget what a model has done so far."""
        self.checkpoints(model).remove()
        distributed.on_primary(partial(self.trajectory(model).unlink, missing_ok=True))

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


class RunFolder:
    """The folder of one run, locked against a second run; use it as a context.

    Args:
        path: of the folder; made if it is not there.
        facts: content of `run.json`; `FINGERPRINT` names the part that must not change.

    Attributes:
        files: of the models.

    Raises:
        OutputError: it cannot be written, another process works in it, or it holds a run of
            another configuration (the fields that differ are named).
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]):
        self.path = pathlib.Path(path)
        self.files = ModelFiles(path)
        self._facts = json.loads(files.to_json(dict(facts)))
        self._lock: filelock.FileLock | None = None
        self._made: list[pathlib.Path] = []
        self._new = False
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
        try:
            existing = json.loads(file.read_text(encoding="utf-8"))
            changed = [
                name
                for part in FINGERPRINT
                for name in differences(
                    fixed(existing.get(part), part), fixed(self._facts[part], part), part
                )
            ]
        except (OSError, *files.DAMAGE) as error:
            raise errors.OutputError(
                f"{file} cannot be read: {error}", "Choose another folder, or remove this one"
            ) from error
        if changed:
            raise errors.OutputError(
                f"{self.path} holds another run; different: {'; '.join(changed[:5])}",
                "Choose another folder, or repeat the same run to resume it",
            )
        self._warn_of_rounding(existing)

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

    def finish(self, trajectory: Trajectory) -> None:
        """Enter a model's end into the ledger; its checkpoint stays until `keep_states`."""
        end = ledger.Entry(
            trajectory.model,
            trajectory.status,
            trajectory.message,
            trajectory.seconds,
            records=len(trajectory.records),
        )
        distributed.on_primary(partial(ledger.append, self.path, end))

    def keep_states(self, ended: Iterable[Trajectory], kept: Collection[str]) -> None:
        """Remove the checkpoints of models that have ended for good, apart from those to keep.

        Args:
            ended: models that ended; who may still be tried again keeps its checkpoint.
            kept: names of those to keep.
        """
        for trajectory in ended:
            if trajectory.status in FINAL and trajectory.model not in kept:
                self.files.checkpoints(trajectory.model).remove()

    def finished(self, head: Head) -> dict[str, Trajectory]:
        """Models that need not be run again, by name."""
        found = distributed.on_primary(self._finished)
        return {
            model: Trajectory(
                model,
                head,
                tuple(map(trajectory_files.parse, lines)),
                status=end["status"],
                message=end["message"],
                seconds=end["seconds"],
            )
            for model, (end, lines) in found.items()
        }

    def _finished(self) -> dict[str, list[Any]]:
        """Model -> its last entry in the ledger and its records, of those with a final one."""
        ends = {entry.model: entry for entry in ledger.read(self.path)}  # the last one counts
        found: dict[str, list[Any]] = {}
        for model in self._facts["models"]:
            end = ends.get(model)
            if end is None or end.status not in FINAL:
                continue
            file = self.files.trajectory(model)
            seen = trajectory_files.read_sound(file)
            if [record.epoch for record in seen] != list(range(end.records)):
                warnings.warn(f"{file} is damaged: {model} starts again", stacklevel=2)
                continue
            found[model] = [files.strict(end), list(map(trajectory_files.to_json, seen))]
        return found


def _rounding(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Facts with these names, and whether nodes of a cluster train: they may be other machines."""
    on_cluster = facts["config"].get("executor") == "ray"
    where = "ray" if on_cluster else "this machine"
    return {**{name: facts.get(name) for name in names}, "executor": where}
