"""Fine-tune the candidates of a run: each is isolated, recorded and taken up where it was."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Sequence

from ncap_jax import errors, memory
from ncap_jax.data.augment import Augmentation, recommended
from ncap_jax.data.feed import Feed, make_feed
from ncap_jax.finetune import loop
from ncap_jax.report.progress import Progress, Watcher, Watchers
from ncap_jax.run_folder import RunFolder
from ncap_jax.types import Dataset, EpochRecord, ModelSpec, RankConfig, Trajectory


def finetune_all(
    specs: Sequence[ModelSpec],
    dataset: Dataset,
    config: RankConfig,
    folder: RunFolder | None,
    show_progress: bool,
    watchers: Sequence[Watcher] = (),
) -> tuple[Trajectory, ...]:
    """Fine-tune every candidate in turn; those that are finished in the folder are taken as is."""
    feed = make_feed(dataset)
    augment = None
    if config.augment == "recommended":
        augment = recommended(dataset.name, min(dataset.images.shape[1:3]))
    done = folder.finished(config.head) if folder is not None else {}
    names = [spec.name for spec in specs]
    with Progress(names, config.epochs, None if show_progress else io.StringIO()) as progress:
        told = Watchers([progress, *watchers])
        for spec in specs:
            if spec.name not in done:
                trajectory = finetune_one(spec, feed, config, augment, folder, told)
                if folder is not None:
                    folder.finish(trajectory)
                done[spec.name] = trajectory
            told.finished(done[spec.name])
    return tuple(done[name] for name in names)


def finetune_one(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    augment: Augmentation | None,
    folder: RunFolder | None,
    watcher: Watcher,
) -> Trajectory:
    """Fine-tune one candidate; its own failure becomes a status, not an exception."""
    seen: list[EpochRecord] = []

    def on_record(record: EpochRecord) -> None:
        seen.append(record)
        if folder is not None:
            folder.append(spec.name, record)
        watcher.epoch(spec.name, record)

    def attempt(micro_batches: int) -> Trajectory:
        seen[:] = folder.resume_point(spec.name) if folder is not None else ()
        return loop.finetune(
            spec,
            feed,
            config,
            augment=augment,
            on_record=on_record,
            checkpoints=folder.checkpoints(spec.name) if folder is not None else None,
            seen=tuple(seen),
            micro_batches=micro_batches,
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
        text = str(error) if isinstance(error, errors.NcapError) else _in_short(error)
        return Trajectory(
            spec.name,
            config.head,
            tuple(seen),
            status="out_of_memory" if memory.exhausted(error) else "failed",
            message=text,
            seconds=time.perf_counter() - start,
        )


def _in_short(error: Exception) -> str:
    """An exception's type, message and notes, bounded."""
    text = f"{type(error).__name__}: {error}"[:500]
    return ". ".join([text, *getattr(error, "__notes__", ())])
