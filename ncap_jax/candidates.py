"""Fine-tune one candidate: isolated, recorded, taken up where it was, within its share of time.

This is what runs in a worker, be it this process or another. Models that pause leave their state
in the run's folder and their compiled functions here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import tempfile
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from ncap_jax import caching, errors, memory
from ncap_jax.data.augment import Augmentation, recommended
from ncap_jax.data.feed import Feed, make_feed
from ncap_jax.finetune import loop, parallel, records
from ncap_jax.run_folder import RUN_FILE, RunFolder
from ncap_jax.selection.budget import Share, Spent
from ncap_jax.selection.executors import Emit, Work
from ncap_jax.types import Dataset, EpochRecord, ModelSpec, RankConfig, Status, Trajectory

# Parameters from which on a model's compiled programs are not left in memory.
LARGE = 1_000_000


class Order(NamedTuple):
    """What is asked of a worker: train this model up to this epoch within this share of time.

    `alive`: the models that are still in the run; what is kept of others is dropped.
    """

    model: str
    until: int
    share: Share = Share()
    alive: frozenset[str] = frozenset()


class Seen(NamedTuple):
    """What a worker tells while it trains: an epoch, and whether it is in the run's folder yet."""

    record: EpochRecord
    written: bool


@dataclasses.dataclass
class Bench:
    """What one process fine-tunes with.

    Attributes:
        specs: the models by name.
        feed: the data on this process's devices.
        config: of the run.
        augment: of the training batches.
        folder: where epochs and states are kept; None: nowhere.
        shared: whether that is the run's own folder.
        kept: compiled functions of models that pause.
        scratch: owner of a folder that is not the run's, removed with it.
    """

    specs: Mapping[str, ModelSpec]
    feed: Feed
    config: RankConfig
    augment: Augmentation | None
    folder: RunFolder | None
    shared: bool = True
    kept: dict[str, loop.Candidate] = dataclasses.field(default_factory=dict)
    scratch: Any = None


def make_work(
    specs: Mapping[str, ModelSpec],
    dataset: Dataset,
    config: RankConfig,
    folder: RunFolder | None,
    shared: bool = True,
    scratch: Any = None,
) -> Work:
    """The function that does orders in this process (see `Bench`)."""
    augment = None
    if config.augment == "recommended":
        augment = recommended(dataset.name, min(dataset.images.shape[1:3]))
    feed = parallel.on_mesh(make_feed(dataset), config)
    bench = Bench(specs, feed, config, augment, folder, shared, scratch=scratch)

    def work(order: Order, emit: Emit) -> Trajectory:
        trajectory = finetune_one(bench, order, emit)
        # Programs of models that pause are wanted again; those of small ones are small.
        if not bench.kept and (specs[order.model].parameters or 0) >= LARGE:
            caching.forget_compiled_programs()
        return trajectory

    return work


def join_work(
    specs: Mapping[str, ModelSpec],
    dataset: Dataset,
    config: RankConfig,
    folder: str,
    run_digest: str,
) -> Work:
    """The same in another process, which may be on a machine that does not see the run's folder.

    There the state is kept in a folder of the worker's own, and epochs are told but not written.

    Args:
        specs: the models by name.
        dataset: checked.
        config: of the run.
        folder: path of the run's folder.
        run_digest: see `digest`.
    """
    caching.keep_compiled_programs()
    path, scratch = pathlib.Path(folder), None
    shared = digest(path) == run_digest
    if not shared:
        scratch = tempfile.TemporaryDirectory(prefix="ncap_jax-")
        path = pathlib.Path(scratch.name)
        (path / records.FOLDER).mkdir()
    return make_work(specs, dataset, config, RunFolder.joined(path), shared, scratch)


def digest(folder: pathlib.Path) -> str:
    """SHA-256 of a run's `run.json`, by which a worker knows the folder; empty if there is none."""
    file = folder / RUN_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def finetune_one(bench: Bench, order: Order, emit: Emit) -> Trajectory:
    """Fine-tune one candidate as ordered; its own failure becomes a status, not an exception.

    Returns:
        The trajectory, with status `stopped` where the model pauses or its share of time is over.

    Raises:
        OutputError: the folder cannot be written.
    """
    spec, config, folder = bench.specs[order.model], bench.config, bench.folder
    seen: list[EpochRecord] = []
    check = order.share.check()
    for name in bench.kept.keys() - order.alive - {order.model}:
        del bench.kept[name]

    def on_record(record: EpochRecord) -> None:
        seen.append(record)
        if folder is not None:
            folder.append(spec.name, record)
        emit(Seen(record, bench.shared))

    def attempt(micro_batches: int) -> Trajectory:
        seen[:] = folder.resume_point(spec.name) if folder is not None else ()
        if seen and seen[-1].epoch >= order.until:
            seconds = sum(record.seconds for record in seen)
            return Trajectory(spec.name, config.head, tuple(seen), "stopped", seconds=seconds)
        if order.share.seconds <= 0:
            raise Spent
        return loop.finetune(
            spec,
            bench.feed,
            config,
            augment=bench.augment,
            on_record=on_record,
            checkpoints=folder.checkpoints(spec.name) if folder is not None else None,
            seen=tuple(seen),
            micro_batches=micro_batches,
            until=order.until,
            check=check,
            kept=bench.kept,
        )

    def sturdy(micro_batches: int) -> Trajectory:
        try:
            return attempt(micro_batches)
        except errors.CheckpointError as error:
            assert folder is not None
            warnings.warn(f"{spec.name} starts again: {error}", stacklevel=2)
            folder.start_again(spec.name)
            return attempt(micro_batches)

    start = time.perf_counter()
    try:
        return memory.with_retry(sturdy, spec.name, config, folder)
    except (errors.OutputError, KeyboardInterrupt):
        raise
    except Exception as error:
        # Whatever breaks inside one candidate must not cost the others their hours.
        ended = Trajectory(spec.name, config.head, tuple(seen), seconds=time.perf_counter() - start)
        return _with_end(ended, error, order, config.epochs)


def _with_end(ended: Trajectory, error: Exception, order: Order, epochs: int) -> Trajectory:
    """A trajectory with the status and the message of what ended it."""
    status: Status = "failed"
    if isinstance(error, Spent):
        status, text = "stopped", order.share.reason(ended, epochs)
    elif isinstance(error, errors.NcapError):
        text = str(error)
    else:
        status = "out_of_memory" if memory.exhausted(error) else "failed"
        text = f"{type(error).__name__}: {error}"[:500]
    message = ". ".join([text, *getattr(error, "__notes__", ())])
    return dataclasses.replace(ended, status=status, message=message)
