"""Fine-tune one candidate: isolated, recorded, resumed where it was, within its share of time.

This runs in a worker: in this process or in another. A model that pauses leaves its state
in the run's folder; its compiled programs stay, because they are shared (`finetune.steps`), and so
does the model itself, as long as those that pause are small: it is not built again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import tempfile
import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from ncap_jax import caching, distributed, errors
from ncap_jax.data.augment import Augmentation, augmentation
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.data.further_splits import further_splits
from ncap_jax.finetune import loop, mesh, outcome, trajectory_files
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.finetune.programs import compile_programs
from ncap_jax.finetune.steps import Deadline
from ncap_jax.measure import training
from ncap_jax.options import RankConfig
from ncap_jax.run import ahead, memory
from ncap_jax.run.ahead import Ahead
from ncap_jax.run.executors import Emit, Work
from ncap_jax.run.fingerprint import RUN_FILE
from ncap_jax.run.job import EpochDone, Job, Task
from ncap_jax.run.model_files import ModelFiles, Position
from ncap_jax.selection import ranking
from ncap_jax.selection.budget import TimeIsUp
from ncap_jax.selection.keeping import most_states
from ncap_jax.types import EpochRecord, ModelSpec, Status, Trajectory

# How many models may end before compiled programs are freed; one with more parameters than LARGE
# counts for four. Freed are those of the next models too, which were compiled ahead: they come back
# from the folder of compiled programs, so this should not happen after every model.
MODELS_KEPT = 16
LARGE = 1_000_000
# Bytes of the states of models that pause, at most; those beyond are read from the folder again.
HELD = 1 << 30


@dataclasses.dataclass
class Worker:
    """What one process fine-tunes with.

    Attributes:
        specs: the models by name.
        feed: the data on this process's devices.
        further_feeds: further splits of them.
        config: of the run.
        augment: of the training batches.
        files: where epochs and states are kept; None: nowhere.
        shared: whether these are in the run's own folder.
        ahead: the models that are prepared beside the one that trains.
        paused: models that will come again.
        held: those of them that are in memory.
        ended: models that have ended since programs were last freed, large ones counted four times.
        scratch: owner of a folder that is not the run's, removed with it.
    """

    specs: Mapping[str, ModelSpec]
    feed: Feed
    config: RankConfig
    augment: Augmentation | None
    files: ModelFiles | None
    further_feeds: tuple[Feed, ...] = ()
    shared: bool = True
    ahead: Ahead | None = None
    paused: set[str] = dataclasses.field(default_factory=set)
    held: dict[str, FineTuning] = dataclasses.field(default_factory=dict)
    ended: int = 0
    scratch: Any = None

    def __call__(self, task: Task, emit: Emit) -> Trajectory:
        """Do one task; emits an `EpochDone` for every epoch."""
        trajectory = finetune_one(self, task, emit)
        if not task.share.refusal:
            self._free_programs(task, trajectory)
        return trajectory

    def start(
        self, task: Task, after: int | None, micro_batches: int, deadline: Deadline | None
    ) -> FineTuning:
        """The model of a task, ready to be trained; the next ones are prepared from now on.

        Args:
            task: names the model.
            after: the epoch of the state in the folder; None: there is none.
            micro_batches: parts in which a batch is taken.
            deadline: of the turn.
        """
        if micro_batches > 1:  # memory has run out
            self.held.clear()
            if self.ahead is not None:
                self.ahead.clear()
            return self.prepare(task.model, micro_batches, deadline)
        prepared = None
        if self.ahead is not None:
            prepared = self.ahead.take(task.model, deadline)
            following = (name for name in task.following if self._can_wait(name))
            self.ahead.expect(following, task.until)
        held = self.held.pop(task.model, None)
        if held is not None and held.after == after:
            return held.until(deadline)
        if prepared is not None:
            return prepared.until(deadline)
        fresh = self.prepare(task.model, micro_batches, deadline)
        if single_device(self.config):  # so that the seconds of an epoch are its own
            compile_programs(fresh, task.until)
        return fresh

    def prepare(
        self, model: str, micro_batches: int = 1, deadline: Deadline | None = None
    ) -> FineTuning:
        """A model with its weights, and what measures it."""
        spec = self.specs[model]
        first, *others = (
            training.start(spec, feed, self.config, self.augment, micro_batches, deadline)
            for feed in (self.feed, *self.further_feeds)
        )
        return dataclasses.replace(first, others=tuple(others)) if others else first

    def prepare_ahead(self, model: str) -> FineTuning:
        """A model as it waits in memory, or as `prepare` makes it; for a thread."""
        return self.held.get(model) or self.prepare(model)

    def hold(self, model: str, paused: FineTuning) -> None:
        """Keep a model that pauses, if the states of all that pause are small enough."""
        if paused.nbytes + sum(held.nbytes for held in self.held.values()) <= HELD:
            self.held[model] = paused

    def _can_wait(self, model: str) -> bool:
        """Whether a model can be built in a thread: one that is in memory may not be ours alone."""
        return self.specs[model].build_pretrained is None

    def _free_programs(self, task: Task, trajectory: Trajectory) -> None:
        """Free compiled programs once they add up, unless a model that pauses needs them again."""
        pauses = trajectory.status == "stopped" and trajectory.epochs >= task.until
        self.paused &= task.alive - {task.model}
        self.held = {name: held for name, held in self.held.items() if name in task.alive}
        if pauses and task.until < self.config.epochs:
            self.paused.add(task.model)
            return
        self.ended += 4 if (self.specs[task.model].parameters or 0) >= LARGE else 1
        if not self.paused and self.ended >= MODELS_KEPT:
            caching.forget_compiled_programs()
            self.ended = 0


def single_device(config: RankConfig) -> bool:
    """Whether models may be compiled before their turn, or in a thread.

    What runs on several devices is compiled by all processes in one order.
    """
    return config.mesh is None and not distributed.is_distributed()


def make_work(job: Job, files: ModelFiles | None, *, threads: int | None = None) -> Work:
    """The function that does tasks in this process.

    Args:
        job: of the run.
        files: where epochs and states are kept; None: nowhere.
        threads: that prepare the next models; None: one for each core but one.
    """
    worker = _make_worker(job, files)
    if single_device(job.config):
        worker.ahead = Ahead(worker.prepare_ahead, ahead.threads() if threads is None else threads)
    return worker


def _make_worker(
    job: Job, files: ModelFiles | None, *, shared: bool = True, scratch: Any = None
) -> Worker:
    config, dataset = ranking.with_needed_beta_eff(job.config), job.dataset
    augment = augmentation(config.augment, dataset)
    feed, *further = (
        mesh.on_mesh(make_feed(split), config.mesh)
        for split in (dataset, *further_splits(dataset, config.validation_splits - 1, config.seed))
    )
    specs = {spec.name: spec for spec in job.specs}
    return Worker(specs, feed, config, augment, files, tuple(further), shared, scratch=scratch)


def join_work(job: Job, folder: str, run_digest: str) -> Work:
    """The same in another process, which may be on a machine that does not see the run's folder.

    There the state is kept in a folder of the worker's own, and epochs are emitted, not written.

    Args:
        job: of the run.
        folder: path of the run's folder.
        run_digest: see `digest`.
    """
    caching.keep_compiled_programs()
    path, scratch = pathlib.Path(folder), None
    shared = digest(path) == run_digest
    if not shared:
        scratch = tempfile.TemporaryDirectory(prefix="ncap_jax-")
        path = pathlib.Path(scratch.name)
        (path / trajectory_files.FOLDER).mkdir()
    return _make_worker(job, ModelFiles(path), shared=shared, scratch=scratch)


def digest(folder: pathlib.Path) -> str:
    """SHA-256 of a run's `run.json`, by which a worker knows the folder; empty if there is none."""
    file = folder / RUN_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def finetune_one(worker: Worker, task: Task, emit: Emit) -> Trajectory:
    """Fine-tune one candidate as asked; its own failure becomes a status, not an exception.

    Returns:
        The trajectory, with status `stopped` where the model pauses or its share of time is over.

    Raises:
        OutputError: the folder cannot be written.
        ChangedDataError: an image is not what it was: no model could be compared with another.
        ProcessError: it failed in this process alone, of several that train together.
    """
    attempts = _Attempts(worker, task, emit)
    start = time.perf_counter()
    try:
        return memory.with_retry(attempts, task.model, worker.config, worker.files)
    except (
        errors.OutputError,
        errors.ChangedDataError,
        errors.ProcessError,
        KeyboardInterrupt,
    ):
        raise
    except Exception as error:
        # Whatever breaks inside one candidate must not cost the others their hours.
        records, seconds = tuple(attempts.records), time.perf_counter() - start
        ended = Trajectory(task.model, worker.config.head, records, seconds=seconds)
        return _with_end(ended, error, worker.config.epochs)


class _Attempts:
    """The attempts at one task: a second one follows a lack of memory or a damaged checkpoint."""

    def __init__(self, worker: Worker, task: Task, emit: Emit):
        self._worker, self._task, self._emit = worker, task, emit
        self._deadline = task.share.deadline()
        self.records: list[EpochRecord] = []

    def __call__(self, micro_batches: int) -> Trajectory:
        try:
            return self._repaired(micro_batches)
        except (errors.OutputError, errors.ProcessError):
            raise
        except Exception as error:
            # What follows is right only if every process that trains this model has failed alike.
            distributed.failed(type(error).__name__, f"{self._task.model}: {error}"[:500])
            raise

    def _repaired(self, micro_batches: int) -> Trajectory:
        try:
            return self._attempt(micro_batches)
        except errors.CheckpointError as error:
            files, model = self._worker.files, self._task.model
            assert files is not None
            warnings.warn(f"{model} starts again: {error}", stacklevel=2)
            files.checkpoints(model).remove()
            return self._attempt(micro_batches)

    def _attempt(self, micro_batches: int) -> Trajectory:
        start, worker, task = time.perf_counter(), self._worker, self._task
        files, config = worker.files, worker.config
        records, state = files.position(task.model) if files is not None else Position()
        records = records[: task.until + 1]
        self.records[:] = records
        before = sum(record.seconds for record in records)
        # It waits there, or has ended.
        if records and ((state or 0) >= task.until or not outcome.is_finite(records[-1])):
            ending = outcome.end(records, config)
            return Trajectory(task.model, config.head, records, *ending, before)
        if task.share.refusal:
            raise TimeIsUp("time_budget", task.share.refusal)
        if self._deadline is not None:
            self._deadline()
        trained = 0 if state is None else state + 1
        trajectory = loop.finetune(
            worker.start(task, state, micro_batches, self._deadline),
            seen=records[:trained],
            recorded=records[trained:],
            checkpoints=files.checkpoints(task.model) if files is not None else None,
            until=task.until,
            saved=range(config.epochs + (most_states(config) > 0)),
            on_record=self._on_record,
            on_pause=partial(worker.hold, task.model),
        )
        return dataclasses.replace(trajectory, seconds=before + time.perf_counter() - start)

    def _on_record(self, record: EpochRecord) -> None:
        self.records.append(record)
        if self._worker.files is not None:
            self._worker.files.append(self._task.model, record)
        if self._deadline is not None:
            self._deadline.epoch(record.epoch)
        self._emit(EpochDone(record, self._worker.shared))


def _with_end(ended: Trajectory, error: Exception, epochs: int) -> Trajectory:
    """A trajectory with the status and the message of what ended it."""
    status: Status = "failed"
    if isinstance(error, TimeIsUp):
        status, text = "stopped", error.reason(ended, epochs)
    elif isinstance(error, errors.NcapError):
        text = str(error)
    else:
        status = "out_of_memory" if errors.is_out_of_memory(error) else "failed"
        text = f"{type(error).__name__}: {error}"[:500]
    # JAX adds notes of its own, on its tracebacks.
    notes = (n for n in getattr(error, "__notes__", ()) if n.startswith(memory.SECOND))
    message = ". ".join([text, *notes])
    return dataclasses.replace(ended, status=status, message=message)
