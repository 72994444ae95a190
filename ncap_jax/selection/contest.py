"""Which model is better, by the predictive distributions: chances and ties.

Accuracies at convergence are shares, and are taken as independent Beta variables, one per model,

    a_m ~ Beta(μ κ, (1 − μ) κ),   κ = μ (1 − μ) / σ² − 1                                   (H0)

with μ the predicted mean and σ its `spread`, which leaves out what is common to the pool and
decides nothing between its models (`ncap_jax.types.Prediction`). Normals would put much of what is
expected of good models above 100 %, and make longer shortlists (experiments/shortlist_study.py). Of
`DRAWS` samples of all models, the chance of model m to be among the best k is

    c_m = share of samples in which fewer than k other models are above m                  (H1)

P(best) is (H1) with k = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from ncap_jax.types import Prediction

DRAWS = 20_000
# Chance of being better than the first model above which a model counts as not told apart: a
# one-sided test at the 5 % level.
TIE_PROBABILITY = 0.05
# Means are held this far from 0 and 1, and σ² below this part of the largest variance that a share
# of that mean can have, where all of it is at 0 and 1.
_EDGE, _WIDEST = 1e-3, 0.5


def has_distribution(prediction: Prediction) -> bool:
    """Whether a prediction states both a mean and a spread."""
    return math.isfinite(prediction.mean) and math.isfinite(prediction.spread)


def chances(predictions: Sequence[Prediction], top: int, seed: int | Sequence[int]) -> np.ndarray:
    """Equation (H1): every model's chance of being among the best `top`, (models,).

    Args:
        predictions: one per model, each with a distribution.
        top: k.
        seed: of the samples, as `np.random.default_rng` takes it.
    """
    # Stable: of exactly equal samples the earlier model is above the later one.
    best = np.argsort(-samples(predictions, seed), axis=1, kind="stable")[:, :top]
    return np.bincount(best.ravel(), minlength=len(predictions)) / DRAWS  # (H1)


def samples(predictions: Sequence[Prediction], seed: int | Sequence[int]) -> np.ndarray:
    """`DRAWS` samples of all models' accuracies (H0), (DRAWS, models); a mean where σ is 0.

    Args: as for `chances`.
    """
    mean = np.array([p.mean for p in predictions])
    spread = np.array([p.spread for p in predictions])
    share = np.clip(mean, _EDGE, 1.0 - _EDGE)
    largest = share * (1.0 - share)
    certain = spread == 0
    kappa = largest / np.minimum(np.where(certain, 1.0, spread) ** 2, _WIDEST * largest) - 1.0
    rng = np.random.default_rng(seed)
    drawn = rng.beta(share * kappa, (1.0 - share) * kappa, size=(DRAWS, mean.size))  # (H0)
    return np.where(certain, mean, drawn)


def tied_with_first(predictions: Sequence[Prediction]) -> list[bool]:
    """Of every model, whether it cannot be told apart from the first one.

    It cannot when its chance of being better, from the two normals, exceeds `TIE_PROBABILITY`. Of
    predictions without a distribution only equal ones are tied. The first is not tied with itself.
    """
    if not predictions:
        return []
    first, *others = predictions
    if not all(map(has_distribution, predictions)):
        return [False, *(p.mean == first.mean for p in others)]
    return [False, *(_chance_of_better(p, first) > TIE_PROBABILITY for p in others)]


def _chance_of_better(one: Prediction, other: Prediction) -> float:
    """P(one ≥ other) for two independent normals."""
    difference, spread = one.mean - other.mean, math.hypot(one.spread, other.spread)
    if spread == 0:
        return float(difference >= 0)
    return float(norm.cdf(difference / spread))
