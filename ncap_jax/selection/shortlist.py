"""The answer in points: what the choice may cost, and the few models that hold a good one.

a_m are joint samples of all models' accuracies (`ncap_jax.selection.contest.samples`), in percent,
f is the model ranked first, and x a number of points that nobody minds. Means and shares are over
the samples:

    expected regret  =  mean of  max_m a_m − a_f                                           (S1)
    within_m         =  share with  a_m ≥ max_j a_j − x                                    (S2)
    shortlist        =  the smallest set L ∋ f, of which  max_{m ∈ L} a_m ≥ max_j a_j − x
                        in at least 90 % of the samples                                    (S3)

The shortlist is found greedily: to the first model those are added, one by one, that raise the
share most. How well stated regret and coverage hold on sets that nothing was fitted to, and other
shares of the samples: experiments/shortlist_study.py, docs/results/shortlist.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ncap_jax.selection import contest
from ncap_jax.types import Prediction

# The share of the samples that a shortlist covers.
COVERED = 0.90


class Outlook(NamedTuple):
    """What the predictive distributions say of a choice.

    Attributes:
        expected_regret: (S1), points.
        within: (S2) of every model, (models,).
        shortlist: (S3), indices, in the order of the models.
    """

    expected_regret: float
    within: np.ndarray
    shortlist: tuple[int, ...]


def outlook(predictions: Sequence[Prediction], points: float, seed: int | Sequence[int]) -> Outlook:
    """Equations (S1) to (S3).

    Args:
        predictions: of accuracies in [0, 1], one per model, each with a distribution; the model
            that is chosen is the first.
        points: x, in percent.
        seed: of the samples.
    """
    samples = 100 * np.clip(contest.samples(predictions, seed), 0.0, 1.0)
    best = samples.max(axis=1)
    good = samples >= best[:, None] - points
    return Outlook(
        float(np.mean(best - samples[:, 0])), good.mean(axis=0), tuple(sorted(smallest_cover(good)))
    )


def smallest_cover(good: np.ndarray, covered: float = COVERED) -> list[int]:
    """Columns of which at least one is true in at least a share of the rows, found greedily.

    Args:
        good: (samples, models) bool; each row has a true value.
        covered: share of the rows.

    Returns:
        Indices, the first model always among them.
    """
    chosen, inside = [0], good[:, 0].copy()
    while inside.mean() < covered:
        gains = (good & ~inside[:, None]).sum(axis=0)
        chosen.append(int(np.argmax(gains)))  # of equal ones the first
        inside |= good[:, chosen[-1]]
    return chosen
