"""What the ranking cost, and what fully fine-tuning every model would have."""

from __future__ import annotations

import math
from typing import NamedTuple

from ncap_jax.report import text
from ncap_jax.types import Ranking

# Set against when `Ranking.info` does not say how long full fine-tuning would have been.
FULL_EPOCHS = 30


class Cost(NamedTuple):
    """Seconds spent and, estimated, needed to fine-tune every model to the end.

    Attributes:
        epochs: trained, over all models.
        spent: seconds, over all models.
        full_epochs: length of full fine-tuning.
        full: seconds for that: each model's mean per trained epoch, times `full_epochs`.
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
        """Both, in words."""
        words = f"{self.epochs} epochs in {text.duration(self.spent)}"
        if self.full > 0:
            words += (
                f", about {text.percent(self.fraction, 0)} of the {text.duration(self.full)} that "
                f"fine-tuning every model for {self.full_epochs} epochs would take (estimated "
                "from the measured time per epoch)"
            )
        return words + "."


def cost(ranking: Ranking) -> Cost:
    """The bill of a ranking; `info['full_epochs']` says how long full fine-tuning would be."""
    full_epochs = int(ranking.info.get("full_epochs", FULL_EPOCHS))
    return Cost(
        epochs=sum(row.epochs for row in ranking.models),
        spent=sum(row.seconds for row in ranking.models),
        full_epochs=full_epochs,
        full=sum(r.seconds / r.epochs * full_epochs for r in ranking.models if r.epochs),
    )
