"""Pure decisions on the way to convergence: learning rates, when to stop, which epoch was best.

They follow from the options and the records so far, so that a run that was killed goes on as it
would have gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ncap_jax.options import FinishConfig, Metric
from ncap_jax.predictor.validation_score import score
from ncap_jax.types import EpochRecord

# What a plateau does: the rate's share after it, and the epochs that make one.
DROP, PLATEAU = 1 / 3, 2


def learning_rates(
    config: FinishConfig, rate: float, epoch: int, steps: int, records: Sequence[EpochRecord]
) -> np.ndarray:
    """The learning rate of every step of an epoch, (steps,) float32.

    With t the epochs passed before a step, W those of the warm-up and T `max_epochs`, it is `rate`
    times

        min(1, t' / W),                 t' = t + 1 / steps              (warm-up)
        (1 + cos(π (t − W) / (T − W))) / 2,   from t = W on             (cosine)
        DROP to the power of the number of plateaus so far              (plateau)

    Args:
        config: `schedule`, `warmup_epochs` and `max_epochs` decide.
        rate: of the ranking.
        epoch: number of the epoch beyond the ranking, from 1 on.
        steps: of an epoch.
        records: of the epochs before it, the ranking's last one first.
    """
    passed = epoch - 1 + np.arange(steps) / steps
    warmup = config.warmup_epochs
    share = np.minimum(1.0, (passed + 1 / steps) / warmup) if warmup else np.ones(steps)
    if config.schedule == "cosine":
        way = np.clip((passed - warmup) / max(config.max_epochs - warmup, 1), 0.0, 1.0)
        share = share * (1 + np.cos(math.pi * way)) / 2
    elif config.schedule == "plateau":
        share = share * DROP ** plateaus([record.validation_loss for record in records])
    return (rate * share).astype(np.float32)


def plateaus(losses: Sequence[float]) -> int:
    """How often `PLATEAU` losses in a row were not below the lowest before them."""
    lowest, waited, found = math.inf, 0, 0
    for loss in losses:
        if loss < lowest:
            lowest, waited = loss, 0
            continue
        waited += 1
        if waited == PLATEAU:
            waited, found = 0, found + 1
    return found


def best(records: Sequence[EpochRecord], metric: Metric = "accuracy") -> int:
    """The place of the best record: the highest validation score, then the lowest loss.

    Of equal ones the first. A record that is not finite is worse than all others.
    """
    return max(range(len(records)), key=lambda place: (*merit(records[place], metric), -place))


def merit(record: EpochRecord, metric: Metric = "accuracy") -> tuple[float, float]:
    """What decides between epochs, and between models: higher is better."""
    if not is_finite(record):
        return -math.inf, -math.inf
    return score(record, metric), -record.validation_loss


def is_finite(record: EpochRecord) -> bool:
    """Whether the losses by which training goes on are finite."""
    running = 0.0 if record.running_loss is None else record.running_loss
    return math.isfinite(running) and math.isfinite(record.validation_loss)


def is_over(
    records: Sequence[EpochRecord], config: FinishConfig, metric: Metric = "accuracy"
) -> bool:
    """Whether training ends after these records, the ranking's last one first."""
    waited = len(records) - 1 - best(records, metric)
    return waited >= config.patience or len(records) > config.max_epochs
