"""Which model is better, by the predictive distributions: chances and ties.

Accuracies at convergence are taken as independent normals N(mean, spread²), one per model. `spread`
leaves out what is common to the pool, which decides nothing between its models
(`ncap_jax.types.Prediction`). Of `DRAWS` samples of all models, the chance of model m to be among
the best k is

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
    """`DRAWS` samples of all models' accuracies, (DRAWS, models); see the module.

    Args: as for `chances`.
    """
    mean = np.array([p.mean for p in predictions])
    spread = np.array([p.spread for p in predictions])
    rng = np.random.default_rng(seed)
    return mean + spread * rng.standard_normal((DRAWS, mean.size))


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
