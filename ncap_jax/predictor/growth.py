"""How much accuracy a pool still gains after its last epoch: a law fitted to finished runs.

On the logit scale the mean accuracy of a pool rises about linearly in the logarithm of training
time, ever more slowly towards its end. From its slope b over the later half of the epochs,

    gain = c max(0, b),   b = least-squares slope of z̄_k on ln(1 + k), k = ⌊n/2⌋..n           (G1)

with z̄_k the mean logit of validation accuracy after k epochs, k = 0 before training. So c is how
many e-fold lengthenings of the training are still to be gained at the present slope: a run that
has flattened out, on a large set for instance, gains little.

The constants come from pools of finished runs, `fit`: c per head is the median of gain / b, for
the end of *ordinary fine-tuning* is what is to be predicted, which a frozen probe only reaches
from below. `spread` is the relative error of (G1), `own` the spread between the models of a pool
around their common gain, relative to it. How well they hold on a set they were not fitted to:
`experiments/compare_predictors.py`, docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logit

from ncap_jax import errors
from ncap_jax.types import Head, Trajectory

# Accuracies are held this far from 0 and 1 before the logit: one wrong in two hundred.
EDGE = 0.005
# Epochs after which the constants are fitted, and slopes too flat to divide by.
FITTED = (1, 2, 3, 5)
_FLAT = 0.05


class Prior(NamedTuple):
    """The constants of (G1).

    Attributes:
        growth: head -> c.
        spread: standard deviation of the true gain around (G1), as a share of it.
        own: standard deviation of a model's gain around its pool's, as a share of it.
    """

    growth: Mapping[Head, float]
    spread: float
    own: float


def clipped_logit(accuracy: np.ndarray) -> np.ndarray:
    """The logit of accuracies in [0, 1], held `EDGE` away from both."""
    return logit(np.clip(accuracy, EDGE, 1.0 - EDGE))


def log_slope(curve: np.ndarray) -> float:
    """Slope b of (G1) from z̄_0..z̄_n, n at least 1."""
    n = curve.size - 1
    epochs = np.arange(n // 2, n + 1)
    return float(np.polyfit(np.log1p(epochs), curve[epochs], 1)[0])


def mean_curve(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """z̄_0..z̄_n of the models that ran as long as the longest, with finite accuracies."""
    longest = max((t.epochs for t in trajectories), default=0)
    curves = [t.series("validation_accuracy") for t in trajectories if t.epochs == longest]
    full = [clipped_logit(c) for c in curves if c.size and np.all(np.isfinite(c))]
    return np.mean(full, axis=0) if full else np.zeros(0)


def gain(trajectories: Sequence[Trajectory], prior: Prior) -> float | None:
    """Equation (G1); None without an epoch of training, or without a finite curve."""
    curve = mean_curve(trajectories)
    if curve.size < 2:
        return None
    return prior.growth[trajectories[0].head] * max(0.0, log_slope(curve))


def fit(pools: Sequence[Sequence[Trajectory]], finals: Sequence[Sequence[float]]) -> Prior:
    """The constants from pools of finished runs, of one or several heads.

    Args:
        pools: the models of one data set, seed and head each, `max(FITTED)` epochs at least.
        finals: what each model reached in ordinary fine-tuning, in [0, 1].

    Raises:
        ConfigError: no pool, or none that rises.
    """
    ratios: dict[Head, list[float]] = {}
    own: list[float] = []
    for pool, final in zip(pools, finals, strict=True):
        end = clipped_logit(np.asarray(final, dtype=np.float64))
        curves = np.array([clipped_logit(t.series("validation_accuracy")) for t in pool])
        for n in FITTED:
            slope = log_slope(curves[:, : n + 1].mean(axis=0))
            gains = end - curves[:, n]
            if slope > _FLAT and gains.mean() > 0:
                ratios.setdefault(pool[0].head, []).append(float(gains.mean() / slope))
                own.append(float(gains.std() / gains.mean()))
    if not ratios:
        raise errors.ConfigError(
            "no pool of finished runs that rises", "Give pools whose accuracy grows with training"
        )
    growth = {head: float(np.median(values)) for head, values in ratios.items()}
    off = [abs(value / growth[head] - 1) for head, values in ratios.items() for value in values]
    # Heavy tails: two standard deviations are to cover what they cover of a normal.
    return Prior(growth, float(np.quantile(off, 0.95) / 1.96), float(np.median(own)))


# Fitted to experiments/corpus by `python -m experiments.compare_predictors`, which prints them.
PRIOR = Prior({"probe": 1.80, "trainable_probe": 0.57, "linear": 0.86}, spread=0.68, own=0.21)
