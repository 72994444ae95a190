"""What a ranking cost, and what fine-tuning every model to the end would have cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from ncap_jax.report import text
from ncap_jax.types import RankedModel, Ranking, Trajectory

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

    The first epoch compiles and is left out. Without later ones, or without a trajectory, it is the
    mean over all that the model took.
    """
    records = trajectories[row.name].records if row.name in trajectories else ()
    later = [r.seconds - r.measure_seconds for r in records if r.epoch > 1]
    return statistics.median(later) if later else row.seconds / row.epochs
