"""How good a ranking is: agreement, regret, hits, coverage and cost, with bootstrap intervals.

`predicted` and `true` are values per model, higher is better. A metric of one list of models is a
plain function; `over_models_and_seeds` averages it over seeds (or tasks) and puts a bootstrap
interval around the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ncap_jax import errors
from ncap_jax.types import Prediction, Trajectory

Metric = Callable[[np.ndarray, np.ndarray], float]


def kendall_tau(predicted: np.ndarray, true: np.ndarray) -> float:
    """Kendall's τ-b, in [−1, 1]; NaN where either is constant.

    Concordant minus discordant pairs, over the root of the product of the pairs untied in each.
    A bootstrap computes it a million times, on a dozen models each. There the signs of all pairs at
    once are ten times as fast as `scipy.stats.kendalltau`, with which the tests compare it.
    """
    x, y = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(predicted), np.asarray(true)))
    untied = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / untied) if untied > 0 else float("nan")


def weighted_tau(predicted: np.ndarray, true: np.ndarray) -> float:
    """Kendall's τ with hyperbolic weights: exchanges among the truly best cost most.

    Weights 1/(rank + 1) by the true ranking, additive (Vigna 2015); NaN where either is
    constant.
    """
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    ranks = np.argsort(np.argsort(-true, kind="stable"), kind="stable")
    return float(stats.weightedtau(predicted, true, rank=ranks).statistic)


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman's rank correlation, in [−1, 1]; NaN where either is constant."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    return float(stats.spearmanr(predicted, true).statistic)


def _top(predicted: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-predicted, kind="stable")[:k]


def regret(predicted: np.ndarray, true: np.ndarray, k: int = 1) -> float:
    """Accuracy lost by fine-tuning only the k models predicted best to the end; 0 is perfect."""
    return float(np.max(true) - np.max(true[_top(predicted, k)]))


def relative_accuracy(predicted: np.ndarray, true: np.ndarray, k: int = 1) -> float:
    """Best true accuracy among the k predicted best, over the best of all: ≤ 1, 1 is perfect."""
    return float(np.max(true[_top(predicted, k)]) / np.max(true))


def top_1_hit(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 if the model predicted best is truly best, or one of several that are; else 0."""
    return float(true[_top(predicted, 1)[0]] == np.max(true))


def mean_absolute_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error; for methods that predict accuracies."""
    return float(np.mean(np.abs(predicted - true)))


METRICS: dict[str, Metric] = {
    "kendall_tau": kendall_tau,
    "weighted_tau": weighted_tau,
    "spearman": spearman,
    "regret@1": regret,
    "regret@3": lambda predicted, true: regret(predicted, true, k=3),
    "relative_accuracy@1": relative_accuracy,
    "relative_accuracy@3": lambda predicted, true: relative_accuracy(predicted, true, k=3),
    "top_1_hit": top_1_hit,
    "mean_absolute_error": mean_absolute_error,
}


class Interval(NamedTuple):
    """A mean with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def over_models_and_seeds(
    metric: Metric,
    predicted: np.ndarray,
    true: np.ndarray,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The metric averaged over seeds, with a percentile bootstrap over models and seeds.

    Each draw takes seeds with replacement and models with replacement (the same models for
    every seed: a model is one candidate, however often it ran). The interval so covers what another
    pool and other seeds would have given.

    Args:
        metric: of one list of models.
        predicted: (seeds, models) or (models,), higher is better; a model with NaN is left out of
            that seed.
        true: the same shape, or (models,) for one truth.
        level: of the interval.
        draws: bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean over seeds, and the interval; NaN where no seed has two models left.

    Raises:
        DataError: the shapes do not fit together.
    """
    value, samples = bootstrap(metric, predicted, true, draws, seed)
    return interval(value, samples, level)


def bootstrap(
    metric: Metric, predicted: np.ndarray, true: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, np.ndarray]:
    """The metric's mean over seeds, and (draws,) bootstrap samples of it, which may hold NaN.

    Arguments and errors as of `over_models_and_seeds`.
    """
    predicted = np.atleast_2d(np.asarray(predicted, dtype=np.float64))
    true = np.asarray(true, dtype=np.float64)
    if true.shape[-1:] != predicted.shape[-1:]:
        raise errors.DataError(
            f"predicted has shape {predicted.shape}, true has shape {true.shape}",
            "Give one value per model in both, and one row per seed",
        )
    true = np.broadcast_to(true, predicted.shape)
    seeds, models = predicted.shape
    rng = np.random.default_rng(seed)
    samples = [
        _mean_over_seeds(metric, predicted[np.ix_(s, m)], true[np.ix_(s, m)])
        for s, m in (
            (rng.integers(seeds, size=seeds), rng.integers(models, size=models))
            for _ in range(draws)
        )
    ]
    return _mean_over_seeds(metric, predicted, true), np.array(samples)


def interval(value: float, samples: np.ndarray, level: float = 0.95) -> Interval:
    """A value with the central quantiles of its finite bootstrap samples; NaN without any."""
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _mean_over_seeds(metric: Metric, predicted: np.ndarray, true: np.ndarray) -> float:
    values = []
    for p, t in zip(predicted, true):
        keep = np.isfinite(p) & np.isfinite(t)
        if keep.sum() >= 2:
            values.append(metric(p[keep], t[keep]))
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def coverage(
    predictions: Sequence[Prediction], true: Sequence[float], level: float = 0.95
) -> float:
    """Share of true values inside the central predicted intervals of that level.

    For a calibrated method it equals `level`. Predictions without a standard deviation do not
    count; NaN if none has one.
    """
    mean = np.array([p.mean for p in predictions])
    std = np.array([p.std for p in predictions])
    values = np.asarray(true, dtype=np.float64)
    known = np.isfinite(mean) & np.isfinite(std) & np.isfinite(values)
    if not known.any():
        return float("nan")
    half = stats.norm.ppf((1 + level) / 2) * std[known]
    return float(np.mean(np.abs(values[known] - mean[known]) <= half))


class Cost(NamedTuple):
    """Seconds that n epochs of every model took, also as a fraction of full fine-tuning."""

    seconds: float
    fraction: float


def cost(trajectories: Sequence[Trajectory], epochs: int, full_seconds: Sequence[float]) -> Cost:
    """What the first n epochs of every model cost.

    Args:
        trajectories: one per model; the measurement of epoch 0 counts too.
        epochs: n.
        full_seconds: of each model's full fine-tuning.

    Raises:
        DataError: not one time per model, or times that do not add up to more than 0.
    """
    if len(full_seconds) != len(trajectories) or not sum(full_seconds) > 0:
        raise errors.DataError(
            f"{len(full_seconds)} times of full fine-tuning for {len(trajectories)} models, "
            f"{sum(full_seconds):g} seconds in all",
            "Give a positive number of seconds for each model",
        )
    seconds = sum(r.seconds for t in trajectories for r in t.records[: epochs + 1])
    return Cost(float(seconds), float(seconds / sum(full_seconds)))
