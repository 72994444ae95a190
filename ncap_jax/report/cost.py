"""What a ranking cost, and what fine-tuning every model to the end would have cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ncap_jax.report import text
from ncap_jax.types import EpochRecord, RankedModel, Ranking, Trajectory

# Length of full fine-tuning where `RunInfo.full_epochs` does not say it.
FULL_EPOCHS = 30


class Cost(NamedTuple):
    """Seconds spent and, estimated, needed to fine-tune every model to the end.

    Attributes:
        epochs: trained, over all models.
        spent: seconds, over all models.
        full_epochs: length of full fine-tuning.
        full: seconds for that: what was spent, and the missing epochs at each model's usual pace.
    """

    epochs: int
    spent: float
    full_epochs: int
    full: float

    @property
    def fraction(self) -> float:
        """Spent as a fraction of full; NaN if no epoch was trained."""
        return self.spent / self.full if self.full > 0 else math.nan

    def sentence(self) -> str:
        """What was spent, and its share of full fine-tuning, in words."""
        words = f"{self.epochs} epochs in {text.duration(self.spent)}"
        if self.full > 0:
            words += (
                f", about {text.percent(self.fraction, 0)} of the {text.duration(self.full)} that "
                f"fine-tuning every model for {self.full_epochs} epochs would take (estimated; "
                "starting a model, compilation above all, is counted once)"
            )
        return words + "."


def cost(ranking: Ranking) -> Cost:
    """The cost of a ranking, against full fine-tuning of `info.full_epochs` epochs."""
    full_epochs = FULL_EPOCHS if ranking.info.full_epochs is None else ranking.info.full_epochs
    trajectories = {trajectory.model: trajectory for trajectory in ranking.trajectories}
    return Cost(
        epochs=sum(row.epochs for row in ranking.models),
        spent=sum(row.seconds for row in ranking.models),
        full_epochs=full_epochs,
        full=sum(
            row.seconds + (full_epochs - row.epochs) * epoch_seconds(row, trajectories)
            for row in ranking.models
            if row.epochs
        ),
    )


def wall_time(ranking: float | None, finish: float | None = None) -> str:
    """The wall times of a ranking and of the finish that followed it, in a sentence.

    Args:
        ranking: seconds over all its calls; None: not known.
        finish: likewise; None: there was none, or it is not known.

    Returns:
        The sentence; empty if neither is known.
    """
    if ranking is None or finish is None:
        known = ranking if finish is None else finish
        what = "in all" if finish is None else "of the finish"
        return "" if known is None else f"Wall time {what}: {text.duration(known)}."
    parts = (ranking + finish, ranking, finish)
    return "Wall time in all: {}, {} for the ranking and {} for the finish.".format(
        *map(text.duration, parts)
    )


def epoch_seconds(row: RankedModel, trajectories: Mapping[str, Trajectory]) -> float:
    """Seconds of a model's usual epoch, without the measurements of beta_eff.

    The first epoch compiles and is left out. Of a model that was stopped after it, the usual epoch
    is taken to be that part of the first which it is for the other models. Where none of them has a
    later one, or without trajectories, it is the mean over all that the model took.
    """
    records = trajectories[row.name].records if row.name in trajectories else ()
    if later := _later(records):
        return later
    parts = [
        usual / _trained(other.records[1])
        for other in trajectories.values()
        if (usual := _later(other.records))
    ]
    if parts and len(records) > 1:
        return statistics.median(parts) * _trained(records[1])
    return row.seconds / row.epochs


def _later(records: Sequence[EpochRecord]) -> float:
    """The median over the epochs after the first; 0 where there are none."""
    seconds = [_trained(record) for record in records if record.epoch > 1]
    return statistics.median(seconds) if seconds else 0.0


def _trained(record: EpochRecord) -> float:
    return record.seconds - record.measure_seconds
