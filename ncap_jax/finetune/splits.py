"""One model on several splits of the data: what is recorded, and what is kept on disk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import Candidate
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.types import ClassCounts, EpochRecord


def mean(records: Sequence[EpochRecord]) -> EpochRecord:
    """The record of an epoch on all splits, which have equally many images.

    Losses, accuracies and each beta_eff are means, so a value that is not finite on one split is
    none; status and flaw are the first that are not fine. Answers are counted together.

    Args:
        records: of the same epoch, one per split.
    """
    if len(records) == 1:
        return records[0]
    first = records[0]
    losses = [r.running_loss for r in records if r.running_loss is not None]
    return dataclasses.replace(
        first,
        train_loss=_mean(r.train_loss for r in records),
        train_accuracy=_mean(r.train_accuracy for r in records),
        validation_loss=_mean(r.validation_loss for r in records),
        validation_accuracy=_mean(r.validation_accuracy for r in records),
        running_loss=_mean(losses) if losses else None,
        beta_eff={s: _means([r.beta_eff[s] for r in records]) for s in first.beta_eff},
        beta_eff_status={
            s: tuple(map(_worst, zip(*(r.beta_eff_status[s] for r in records), strict=True)))
            for s in first.beta_eff_status
        },
        measure_seconds=math.fsum(r.measure_seconds for r in records),
        features=next((r.features for r in records if r.features), ""),
        validation_counts=_together([r.validation_counts for r in records]),
    )


def _together(counts: Sequence[ClassCounts | None]) -> ClassCounts | None:
    """The answers on all validation parts, none of which holds an image of another."""
    known = [each for each in counts if each is not None]
    if len(known) < len(counts):
        return None
    images = np.sum([each.images for each in known], axis=0)
    correct, predicted = (
        np.sum([getattr(each, name) for each in known], axis=0) for name in ("correct", "predicted")
    )
    return ClassCounts(
        tuple(images.tolist()),
        tuple(map(tuple, correct.tolist())),
        tuple(map(tuple, predicted.tolist())),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _means(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.mean(values, axis=0).tolist())


def _worst(statuses: Sequence[str]) -> str:
    return next((status for status in statuses if status != "ok"), "ok")


def kept(states: Sequence[steps.TrainState]) -> Any:
    """What a checkpoint holds: of one split its state, of several a mapping of all."""
    if len(states) == 1:
        return states[0]
    return {f"split{number}": state for number, state in enumerate(states, start=1)}


def restored(held: Mapping[str, Any]) -> tuple[steps.TrainState, ...]:
    """The states of several splits from what a checkpoint holds."""
    return tuple(held[f"split{number}"] for number in range(1, len(held) + 1))


def first(
    checkpoints: Checkpoints, epoch: int, candidate: Candidate, number: int
) -> steps.TrainState:
    """The state of the first of `number` splits, as a ranking kept it.

    Raises:
        CheckpointError: the checkpoint is damaged or of another model.
    """
    template = kept([candidate.train_state] * number)
    found = checkpoints.restore(epoch, template)
    return found if number == 1 else restored(found)[0]
