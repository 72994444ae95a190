"""How much accuracy a pool still gains after its last epoch: a law fitted to finished runs.

On the logit scale the mean accuracy of a pool rises about linearly in the logarithm of training
time, ever more slowly towards its end. From its slope b over the later half of the epochs,

    gain = c max(0, b),   b = least-squares slope of z̄_k on ln(1 + k), k = ⌊n/2⌋..n           (G1)

with z̄_k the mean logit of validation accuracy after k epochs, k = 0 before training. Training c
e-foldings longer at the present slope would gain as much. A run that has flattened out, on a large
set for instance, gains little.

While a pool gains, its models draw together: the others catch up with the early leaders. Let x be
the distances of the models' logits from the pool's mean after n epochs, y those at the end, s the
standard deviation of x over the models, and u the share of the climb that is still ahead. Then

    y = x exp(-k gain) + e,   scale of e: √(own² + q² S² u² + v exp(-2 k gain))            (G2)
    u = (gain + ½) / (gain + rise + ½),   rise = max(0, z̄_n - z̄_0)

Early leads, however large, decide little while the climb has hardly begun, and more and more
towards its end; the ½ keeps a pool that has not started to rise from counting as finished. `own` is
what no early epoch tells: how far apart two runs of one model end.

Part of every lead is luck: which m images validate. It gives the logit of an accuracy p_i the
variance v (binomial, first order). Of s² it leaves S² to the models:

    v = mean over i of 1 / (m p_i (1 - p_i)),   S² = max(s² - v, s² / 2)                   (G3)

with p_i by Laplace's rule, (m p + 1) / (m + 2), and held like the logits. Many images: v = 0 and
S = s. The half keeps a pool that differs by no more than luck from counting as equal for certain. A
lead is not drawn in by the share of luck in it unless images are few (V3): the order would stay,
and a pool that has hardly begun to rise differs far more at its end than its leads say.

(G1) misses by a share r of what it says, and by the more the less of the climb has been seen: a
pool that has hardly risen can end anywhere.

    variance of gain's error = r² gain² + 2 w² u⁴ min(1, z_max - z̄_n)²                     (G4)

The 2 makes a variance of the scale w of Student's t. z_max is the logit of the highest accuracy
that is told from 1 (`EDGE`): a pool that is there already neither gains nor has risen.

`fit` takes the constants from pools of finished runs, for each head its own: what is predicted is
the end of *ordinary fine-tuning*, which a frozen probe only approaches from below. c is the median
of gain / b, r (`spread`) the quantile of the relative errors of (G1) that a standard deviation of a
normal covers. w (`unforeseen`) maximises the likelihood of the gains, and k, own and q that of
(G2), with Student's t of 4 degrees of freedom, because a few pools and models end far from where
all signs point and must not blur the others; its standard deviation is √2 times its scale. How well
the constants hold on a set to which they were not fitted: `experiments/compare_predictors.py` and
`experiments/shortlist_study.py`, docs/results/early-signals.md and docs/results/shortlist.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logit
from scipy.stats import norm
from scipy.stats import t as student

from ncap_jax import errors
from ncap_jax.options import Head
from ncap_jax.predictor.validation_size import by_laplace
from ncap_jax.types import Trajectory

# Accuracies are held this far from 0 and 1 before the logit: one wrong in two hundred.
EDGE = 0.005
_HIGHEST = float(logit(1.0 - EDGE))  # z_max of (G4)
# Numbers of epochs after which the constants are fitted.
FITTED_EPOCHS = (1, 2, 3, 5)
# Slopes below this are too flat to divide by.
_FLAT = 0.05
FREEDOM = 4.0  # degrees of freedom of Student's t
HEAVY = float(np.sqrt(FREEDOM / (FREEDOM - 2)))  # its standard deviation over its scale
# Standard deviation of the normal with its quartiles, over its scale.
QUARTILES = float(student.ppf(0.75, FREEDOM) / norm.ppf(0.75))
# The ½ of (G2), in logits.
_BEGUN = 0.5
# Lower bound of a logit's standard deviation: pools that follow the law exactly would have 0.
_LEAST = 0.01
# Between these w of (G4) is looked for, as logarithms.
_UNFORESEEN = (float(np.log(_LEAST)), float(np.log(10.0)))


class Prior(NamedTuple):
    """The constants of (G1) and (G2) under one head.

    Attributes:
        growth: c.
        spread: r of (G4).
        own: scale, in logits, of where a model ends when its lead is known.
        shrink: k.
        scatter: q.
        unforeseen: w of (G4), in logits.
    """

    growth: float
    spread: float
    own: float
    shrink: float
    scatter: float
    unforeseen: float


Priors = Mapping[Head, Prior]


class Leads(NamedTuple):
    """What (G1) to (G3) see of a pool: b, rise, mean gain, distances x and y, (models,), and v."""

    slope: float
    rise: float
    gained: float
    before: np.ndarray
    after: np.ndarray
    noise: float


def clipped_logit(accuracy: np.ndarray) -> np.ndarray:
    """The logit of accuracies in [0, 1], kept at least `EDGE` away from both ends."""
    return logit(np.clip(accuracy, EDGE, 1.0 - EDGE))


def log_slope(curve: np.ndarray) -> float:
    """Slope b of (G1) from z̄_0..z̄_n, n at least 1."""
    n = curve.size - 1
    epochs = np.arange(n // 2, n + 1)
    return float(np.polyfit(np.log1p(epochs), curve[epochs], 1)[0])


def mean_curve(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """z̄_0..z̄_n over the models of greatest length whose accuracies are all finite."""
    longest = max((t.epochs for t in trajectories), default=0)
    curves = [t.series("validation_accuracy") for t in trajectories if t.epochs == longest]
    full = [clipped_logit(c) for c in curves if c.size and np.all(np.isfinite(c))]
    return np.mean(full, axis=0) if full else np.zeros(0)


def gain(trajectories: Sequence[Trajectory], prior: Prior) -> float | None:
    """Equation (G1); None if no model has an epoch of training and a finite curve."""
    curve = mean_curve(trajectories)
    return prior.growth * max(0.0, log_slope(curve)) if curve.size > 1 else None


def share_ahead(gain: float, rise: float) -> float:
    """The share of the climb that is still ahead, u of (G2), in (0, 1]."""
    return (gain + _BEGUN) / (gain + max(0.0, rise) + _BEGUN)


def gain_error(prior: Prior, gain: float, rise: float, level: float) -> float:
    """Standard deviation of the error of (G1), in logits: both parts of (G4); `level` is z̄_n."""
    room = float(np.clip(_HIGHEST - level, 0.0, 1.0))
    unforeseen = HEAVY * prior.unforeseen * share_ahead(gain, rise) ** 2 * room
    return float(np.hypot(prior.spread * gain, unforeseen))


def validation_images(pool: Sequence[Trajectory]) -> int | None:
    """How many images validate, as the records count them; None where they do not."""
    return next((sum(t.validation_images) for t in pool if t.validation_images), None)


def image_noise(accuracies: np.ndarray, images: int | None) -> float:
    """The variance v of (G3), in logits squared.

    Args:
        accuracies: (models,) of the validation part, in [0, 1]; at least one.
        images: m; None or 0: not known, which counts as many.
    """
    if not images:
        return 0.0
    share = np.clip(by_laplace(accuracies, images), EDGE, 1.0 - EDGE)
    return float(np.mean(1 / (images * share * (1 - share))))


def without_luck(variance: float, noise: float) -> float:
    """S of (G3), in logits, from s² and v."""
    return float(np.sqrt(max(variance - noise, variance / 2)))


def scatter(prior: Prior, gain: float, rise: float, apart: float) -> float:
    """Scale of e of (G2) without its last term, in logits; `apart` is S."""
    return float(np.hypot(prior.own, prior.scatter * apart * share_ahead(gain, rise)))


def fit(
    pools: Sequence[Sequence[Trajectory]], finals: Sequence[Sequence[float]]
) -> dict[Head, Prior]:
    """The constants from pools of finished runs, for every head among them.

    Args:
        pools: the models of one data set, seed and head each, at least `max(FITTED_EPOCHS)`
            epochs.
        finals: what each model reached in ordinary fine-tuning, in [0, 1].

    Raises:
        ConfigError: `pools` is empty, or under some head no pool gains accuracy.
    """
    leads: dict[Head, list[Leads]] = {}
    for pool, final in zip(pools, finals, strict=True):
        end = clipped_logit(np.asarray(final, dtype=np.float64))
        seen = np.array([t.series("validation_accuracy") for t in pool])
        images = validation_images(pool)
        leads.setdefault(pool[0].head, []).extend(
            leads_of(clipped_logit(seen[:, : n + 1]), end, image_noise(seen[:, n], images))
            for n in FITTED_EPOCHS
        )
    if not leads:
        raise errors.ConfigError(
            "no pool of finished runs to fit the growth law to", "Give at least one for each head"
        )
    return {head: fit_head(head, found) for head, found in leads.items()}


def leads_of(curves: np.ndarray, end: np.ndarray, noise: float) -> Leads:
    """What the law sees of a pool: (models, n + 1) and (models,) logits, and v."""
    middle = curves.mean(axis=0)
    return Leads(
        slope=log_slope(middle),
        rise=float(middle[-1] - middle[0]),
        gained=float(end.mean() - middle[-1]),
        before=curves[:, -1] - middle[-1],
        after=end - end.mean(),
        noise=noise,
    )


def fit_head(head: Head, leads: Sequence[Leads]) -> Prior:
    """The constants of one head; see `fit`."""
    ratios = [e.gained / e.slope for e in leads if e.slope > _FLAT and e.gained > 0]
    if not ratios:
        raise errors.ConfigError(
            f"no pool with head {head!r} gains accuracy with training",
            "Give pools whose accuracy grows with training",
        )
    growth = float(np.median(ratios))
    off = [abs(ratio / growth - 1) for ratio in ratios]
    # The tails, pools that have hardly risen yet, would inflate a standard deviation.
    spread = float(np.quantile(off, 0.6827))
    return Prior(growth, spread, *_fit_leads(leads, growth), _fit_unforeseen(leads, growth, spread))


def _fit_unforeseen(leads: Sequence[Leads], growth: float, spread: float) -> float:
    """The w of greatest likelihood (G4) when c and r are known; pools count equally."""
    gain = growth * np.maximum(0.0, [e.slope for e in leads])
    off = np.array([e.gained for e in leads]) - gain
    ahead = np.array([share_ahead(g, e.rise) for g, e in zip(gain.tolist(), leads)])

    def negative_log_likelihood(log: float) -> float:
        scale = np.sqrt((spread * gain) ** 2 + (np.exp(log) * ahead**2) ** 2 + _LEAST**2)
        return -float(np.sum(student.logpdf(off / scale, FREEDOM) - np.log(scale)))

    found = minimize_scalar(negative_log_likelihood, bounds=_UNFORESEEN, method="bounded")
    return float(np.exp(found.x))


def _fit_leads(leads: Sequence[Leads], growth: float) -> tuple[float, float, float]:
    """own, k and q of greatest likelihood (G2); pools count equally, whatever their size."""
    # All pools at once: (pools,) what is common to a pool, (models of all pools,) the rest.
    sizes = np.array([e.before.size for e in leads])
    starts_at = np.cumsum(sizes) - sizes
    before, after = (np.concatenate(part) for part in zip(*((e.before, e.after) for e in leads)))
    gain = growth * np.maximum(0.0, [e.slope for e in leads])
    ahead = np.array([share_ahead(g, e.rise) for g, e in zip(gain.tolist(), leads)])
    luck = np.array([e.noise for e in leads])
    signals = [without_luck(float(e.before.var()), e.noise) for e in leads]
    apart = (np.array(signals) * ahead) ** 2

    def negative_log_likelihood(logs: np.ndarray) -> float:
        own, shrink, scatter = np.exp(logs)
        left = np.exp(-shrink * gain)
        variance = own**2 + scatter**2 * apart + left**2 * luck + _LEAST**2
        end = before * np.repeat(left, sizes)
        off = (after - end) ** 2 / np.repeat(variance, sizes)
        tails = np.add.reduceat(np.log1p(off / FREEDOM), starts_at) / sizes
        return float(np.sum(np.log(variance) + (FREEDOM + 1) * tails))

    starts = (np.log([0.2, 0.5, 1.0]), np.log([0.1, 0.2, 0.5]))
    found = min(
        (minimize(negative_log_likelihood, s, method="Nelder-Mead") for s in starts),
        key=lambda o: o.fun,
    )
    own, shrink, scatter = np.exp(found.x).tolist()
    return own, shrink, scatter


# Fitted to experiments/corpus by `python -m experiments.compare_predictors`, which prints them.
PRIORS: Priors = {
    "probe": Prior(1.80, spread=0.39, own=0.04, shrink=0.56, scatter=0.95, unforeseen=1.76),
    "trainable_probe": Prior(
        0.80, spread=0.61, own=0.11, shrink=0.57, scatter=1.07, unforeseen=2.19
    ),
    "linear": Prior(0.64, spread=0.57, own=0.05, shrink=0.79, scatter=0.86, unforeseen=1.57),
}
