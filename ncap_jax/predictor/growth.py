"""How much accuracy a pool still gains after its last epoch: a law fitted to finished runs.

On the logit scale the mean accuracy of a pool rises about linearly in the logarithm of training
time, ever more slowly towards its end. From its slope b over the later half of the epochs,

    gain = c max(0, b),   b = least-squares slope of z̄_k on ln(1 + k), k = ⌊n/2⌋..n           (G1)

with z̄_k the mean logit of validation accuracy after k epochs, k = 0 before training. So c is how
many e-fold lengthenings of the training are still to be gained at the present slope: a run that
has flattened out, on a large set for instance, gains little.

While a pool gains, its models draw together: who leads early is caught up with. With x the logits'
distances from the pool's mean after n epochs, y those at the end, s the standard deviation of x
over the models, and u the share of the climb that is still ahead,

    y = x exp(-k gain) + e,   e ~ N(0, own² + q² s² u)                                     (G2)
    u = (gain + ½) / (gain + rise + ½),   rise = max(0, z̄_n - z̄_0)

Early leads, however large, decide little while the climb has hardly begun, and more and more
towards its end; the ½ keeps a pool that has not started to rise from counting as finished. `own` is
what no early epoch tells: two runs of one model end so far apart.

The constants come from pools of finished runs, `fit`, for each head its own: what is to be
predicted is the end of *ordinary fine-tuning*, which a frozen probe only reaches from below. c is
the median of gain / b, `spread` the relative error of (G1). k, own and q have the greatest
likelihood under (G2) with Student's t of 4 degrees of freedom for e, because a few models end far
from where all signs point and must not blur the others. How well they hold on a set they were not
fitted to: `experiments/compare_predictors.py`, docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit

from ncap_jax import errors
from ncap_jax.types import Head, Trajectory

# Accuracies are held this far from 0 and 1 before the logit: one wrong in two hundred.
EDGE = 0.005
# Epochs after which the constants are fitted, and slopes too flat to divide by.
FITTED = (1, 2, 3, 5)
_FLAT = 0.05
FREEDOM = 4.0  # degrees of freedom of Student's t
# Logits by which a climb counts as begun.
_BEGUN = 0.5
# Standard deviation of a logit that is never undercut: exact pools would have none.
_LEAST = 0.01


class Prior(NamedTuple):
    """The constants of (G1) and (G2) under one head.

    Attributes:
        growth: c.
        spread: standard deviation of the true gain around (G1), as a share of it.
        own: standard deviation, a logit, of where a model ends when its leads are known.
        shrink: k.
        scatter: q.
    """

    growth: float
    spread: float
    own: float
    shrink: float
    scatter: float


Priors = Mapping[Head, Prior]


class Leads(NamedTuple):
    """What (G1) and (G2) see of a pool: b, rise, mean gain, distances x and y, (models,)."""

    slope: float
    rise: float
    gained: float
    before: np.ndarray
    after: np.ndarray


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
    return prior.growth * max(0.0, log_slope(curve)) if curve.size > 1 else None


def ahead(gain: float, rise: float) -> float:
    """Of the climb the share that is still ahead, u of (G2), in (0, 1]."""
    return (gain + _BEGUN) / (gain + max(0.0, rise) + _BEGUN)


def scatter(prior: Prior, gain: float, rise: float, apart: float) -> float:
    """Standard deviation of e of (G2), a logit; `apart` is s."""
    return float(np.hypot(prior.own, prior.scatter * apart * np.sqrt(ahead(gain, rise))))


def fit(
    pools: Sequence[Sequence[Trajectory]], finals: Sequence[Sequence[float]]
) -> dict[Head, Prior]:
    """The constants from pools of finished runs, for every head that they have.

    Args:
        pools: the models of one data set, seed and head each, `max(FITTED)` epochs at least.
        finals: what each model reached in ordinary fine-tuning, in [0, 1].

    Raises:
        ConfigError: no pool, or none of a head that rises.
    """
    leads: dict[Head, list[Leads]] = {}
    for pool, final in zip(pools, finals, strict=True):
        end = clipped_logit(np.asarray(final, dtype=np.float64))
        curves = np.array([clipped_logit(t.series("validation_accuracy")) for t in pool])
        leads.setdefault(pool[0].head, []).extend(_leads(curves[:, : n + 1], end) for n in FITTED)
    if not leads:
        raise errors.ConfigError("no pool of finished runs", "Give some of every head")
    return {head: _fit_head(found) for head, found in leads.items()}


def _leads(curves: np.ndarray, end: np.ndarray) -> Leads:
    """(models, n + 1) and (models,) logits."""
    middle = curves.mean(axis=0)
    return Leads(
        slope=log_slope(middle),
        rise=float(middle[-1] - middle[0]),
        gained=float(end.mean() - middle[-1]),
        before=curves[:, -1] - middle[-1],
        after=end - end.mean(),
    )


def _fit_head(leads: Sequence[Leads]) -> Prior:
    ratios = [e.gained / e.slope for e in leads if e.slope > _FLAT and e.gained > 0]
    if not ratios:
        raise errors.ConfigError(
            "no pool of finished runs that rises", "Give pools whose accuracy grows with training"
        )
    growth = float(np.median(ratios))
    off = [abs(ratio / growth - 1) for ratio in ratios]
    # What a standard deviation covers of a normal: in the tails are pools that hardly rose yet.
    return Prior(growth, float(np.quantile(off, 0.6827)), *_fit_leads(leads, growth))


def _fit_leads(leads: Sequence[Leads], growth: float) -> tuple[float, float, float]:
    """own, k and q of greatest likelihood (G2); every pool counts the same, however large."""

    def surprise(logs: np.ndarray) -> float:
        own, shrink, scatter = np.exp(logs)
        total = 0.0
        for slope, rise, _, before, after in leads:
            gain = growth * max(0.0, slope)
            variance = own**2 + scatter**2 * before.var() * ahead(gain, rise) + _LEAST**2
            left = (after - before * np.exp(-shrink * gain)) ** 2 / variance
            tails = (FREEDOM + 1) * np.mean(np.log1p(left / FREEDOM))
            total += float(np.log(variance) + tails)
        return total

    starts = (np.log([0.2, 0.5, 1.0]), np.log([0.1, 0.2, 0.5]))
    found = min((minimize(surprise, s, method="Nelder-Mead") for s in starts), key=lambda o: o.fun)
    own, shrink, scatter = np.exp(found.x).tolist()
    return own, shrink, scatter


# Fitted to experiments/corpus by `python -m experiments.compare_predictors`, which prints them.
PRIORS: Priors = {
    "probe": Prior(1.80, spread=0.39, own=0.07, shrink=0.57, scatter=0.73),
    "trainable_probe": Prior(0.80, spread=0.61, own=0.09, shrink=0.64, scatter=0.90),
    "linear": Prior(0.71, spread=0.54, own=0.05, shrink=0.69, scatter=0.67),
}
