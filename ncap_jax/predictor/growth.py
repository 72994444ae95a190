"""How much accuracy a pool still gains after its last epoch: a law fitted to finished runs.

On the logit scale the mean accuracy of a pool rises about linearly in the logarithm of training
time, ever more slowly towards its end. From its slope b over the later half of the epochs,

    gain = c max(0, b),   b = least-squares slope of z̄_k on ln(1 + t_k / 16), k = ⌊n/2⌋..n    (G1)

with z̄_k the mean logit of validation accuracy after k epochs, k = 0 before training, and t_k the
steps so far (16: `UNIT_STEPS`). Training c e-foldings longer at the present slope would gain as
much. A run that has flattened out gains little, and so does one that has many steps behind it, on a
large set for instance: `experiments/growth_study.py` compares steps with epochs.

While a pool gains, its models draw together: the others catch up with the early leaders. Let x be
the distances of the models' logits z from the pool's mean after n epochs, y those at the end, s the
standard deviation of x over the models, and u the share of the climb that is still ahead. Then

    y = x left + e,   left = exp(-k √(gain u)),   scale of e: √(own² + q² S² u_i² + v left²)  (G2)
    u = (gain + ½) / (gain + rise + ½),   rise = max(0, z̄_n - z̄_0)

and u_i likewise; of a model ahead of the pool with its own rise, z_n - z̄_0, because who has climbed
further has less ahead. (Models behind have more ahead by the same reasoning, and the finished runs
say so; but that would give the last model a better chance of being the best than one in between.)
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

    variance of gain's error = 2 r² gain² + 2 w² u⁴ min(1, z_max - z̄_n)²                   (G4)

The 2 makes a variance of the scale of Student's t. z_max is the logit of the highest accuracy
that is told from 1 (`EDGE`): a pool that is there already neither gains nor has risen.

`fit` takes the constants from pools of finished runs, for each head its own: what is predicted is
the end of *ordinary fine-tuning*, which a frozen probe only approaches from below. c is the median
of gain / b. r (`spread`) and w (`unforeseen`) maximise the likelihood of the gains, and k, own and
q that of (G2), with Student's t of 4 degrees of freedom, because a few pools and models end far
from where all signs point and must not blur the others; its standard deviation is √2 times its
scale. How well the constants hold on a set to which they were not fitted:
`experiments/compare_predictors.py` and `experiments/shortlist_study.py`,
docs/results/early-signals.md and docs/results/shortlist.md. Other forms of the law:
`experiments/growth_study.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
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
# The unit of training time in (G1), in steps: an epoch of the sets that the law was found on; and
# what an epoch of a record that does not count steps is taken to have.
UNIT_STEPS = 16
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


class Prior(NamedTuple):
    """The constants of (G1) and (G2) under one head.

    Attributes:
        growth: c.
        spread: r of (G4), a scale of Student's t.
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
    """What (G1) to (G3) see of a pool: b, rise, mean gain, distances x and y, (models,), and v.

    `rise` is negative where accuracy fell.
    """

    slope: float
    rise: float
    gained: float
    before: np.ndarray
    after: np.ndarray
    noise: float

    @property
    def rises(self) -> np.ndarray:
        """(models,) from which each model's u_i follows."""
        return own_rises(self.rise, self.before)


def clipped_logit(accuracy: np.ndarray) -> np.ndarray:
    """The logit of accuracies in [0, 1], kept at least `EDGE` away from both ends."""
    return logit(np.clip(accuracy, EDGE, 1.0 - EDGE))


def log_slope(curve: np.ndarray, steps: np.ndarray) -> float:
    """Slope b of (G1) from z̄_0..z̄_n and t_0..t_n, n at least 1."""
    later = slice((curve.size - 1) // 2, None)
    return float(np.polyfit(np.log1p(steps[later] / UNIT_STEPS), curve[later], 1)[0])


def training_steps(trajectory: Trajectory) -> np.ndarray:
    """t_0..t_n of (G1), (epochs + 1,) float64."""
    steps = trajectory.series("steps")
    known = np.isfinite(steps).all()
    return steps if known else UNIT_STEPS * trajectory.series("epoch")


def mean_curve(trajectories: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """z̄_0..z̄_n and t_0..t_n over the models of greatest length whose accuracies are all finite."""
    longest = max((t.epochs for t in trajectories), default=0)
    full = [
        (clipped_logit(accuracy), training_steps(t))
        for t in trajectories
        if (accuracy := t.series("validation_accuracy")).size
        and t.epochs == longest
        and np.all(np.isfinite(accuracy))
    ]
    if not full:
        return np.zeros(0), np.zeros(0)
    curve, steps = np.mean(full, axis=0)
    return curve, steps


def gain(trajectories: Sequence[Trajectory], prior: Prior) -> float | None:
    """Equation (G1); None if no model has an epoch of training and a finite curve."""
    curve, steps = mean_curve(trajectories)
    return prior.growth * max(0.0, log_slope(curve, steps)) if curve.size > 1 else None


def share_ahead(gain: float, rise: float | np.ndarray) -> np.ndarray:
    """The share of the climb that is still ahead, u of (G2), in (0, 1], shaped as `rise`."""
    return (gain + _BEGUN) / (gain + np.maximum(0.0, rise) + _BEGUN)


def own_rises(rise: float, leads: np.ndarray) -> np.ndarray:
    """How far each model has climbed, for u_i of (G2): at least as far as the pool, (models,)."""
    return rise + np.maximum(0.0, leads)


def drawing_in(gain: float, rise: float) -> float:
    """What draws a pool's models together, √(gain u) of (G2), in logits."""
    return float(np.sqrt(gain * share_ahead(gain, rise)))


def lead_left(prior: Prior, gain: float, rise: float) -> float:
    """The share of a lead that is left at the end, `left` of (G2), in (0, 1]."""
    return float(np.exp(-prior.shrink * drawing_in(gain, rise)))


def gain_error(prior: Prior, gain: float, rise: float, level: float) -> float:
    """Standard deviation of the error of (G1), in logits: both parts of (G4); `level` is z̄_n."""
    room = float(np.clip(_HIGHEST - level, 0.0, 1.0))
    unforeseen = prior.unforeseen * float(share_ahead(gain, rise)) ** 2 * room
    return HEAVY * float(np.hypot(prior.spread * gain, unforeseen))


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


def scatter(prior: Prior, gain: float, rises: np.ndarray, apart: float) -> np.ndarray:
    """Scale of e of (G2) without its last term, (models,), in logits.

    Args:
        prior: of the head.
        gain: of the pool (G1).
        rises: (models,) `own_rises`.
        apart: S.
    """
    return np.hypot(prior.own, prior.scatter * apart * share_ahead(gain, rises))


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
        steps = training_steps(pool[0])
        leads.setdefault(pool[0].head, []).extend(
            leads_of(
                clipped_logit(seen[:, : n + 1]),
                steps[: n + 1],
                end,
                image_noise(seen[:, n], images),
            )
            for n in FITTED_EPOCHS
        )
    if not leads:
        raise errors.ConfigError(
            "no pool of finished runs to fit the growth law to", "Give at least one for each head"
        )
    return {head: fit_head(head, found) for head, found in leads.items()}


def leads_of(curves: np.ndarray, steps: np.ndarray, end: np.ndarray, noise: float) -> Leads:
    """What the law sees of a pool: (models, n + 1) logits, (n + 1,) steps, (models,) logits, v."""
    middle = curves.mean(axis=0)
    return Leads(
        slope=log_slope(middle, steps),
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
    spread, unforeseen = _fit_gains(leads, growth)
    return Prior(growth, spread, *_fit_leads(leads, growth), unforeseen)


def _fit_gains(leads: Sequence[Leads], growth: float) -> tuple[float, float]:
    """The r and w of greatest likelihood (G4) when c is known; pools count equally."""
    gain = growth * np.maximum(0.0, [e.slope for e in leads])
    off = np.array([e.gained for e in leads]) - gain
    ahead = np.array([float(share_ahead(g, e.rise)) for g, e in zip(gain.tolist(), leads)])

    def negative_log_likelihood(logs: np.ndarray) -> float:
        spread, unforeseen = np.exp(logs)
        scale = np.sqrt((spread * gain) ** 2 + (unforeseen * ahead**2) ** 2 + _LEAST**2)
        return -float(np.sum(student.logpdf(off / scale, FREEDOM) - np.log(scale)))

    spread, unforeseen = _greatest(negative_log_likelihood, ((0.4, 1.0), (0.1, 0.3)))
    return spread, unforeseen


def _greatest(
    negative_log_likelihood: Callable[[np.ndarray], float], starts: Iterable[Sequence[float]]
) -> tuple[float, ...]:
    """The positive constants of greatest likelihood, a function of their logarithms."""
    found = (
        minimize(negative_log_likelihood, np.log(start), method="Nelder-Mead") for start in starts
    )
    return tuple(np.exp(min(found, key=lambda o: o.fun).x).tolist())


def _fit_leads(leads: Sequence[Leads], growth: float) -> tuple[float, float, float]:
    """own, k and q of greatest likelihood (G2); pools count equally, whatever their size."""
    # All pools at once: (pools,) what is common to a pool, (models of all pools,) the rest.
    sizes = np.array([e.before.size for e in leads])
    starts_at = np.cumsum(sizes) - sizes
    before, after = (np.concatenate(part) for part in zip(*((e.before, e.after) for e in leads)))
    gain = (growth * np.maximum(0.0, [e.slope for e in leads])).tolist()
    drawn = np.array([drawing_in(g, e.rise) for g, e in zip(gain, leads)])
    ahead = np.concatenate([share_ahead(g, e.rises) for g, e in zip(gain, leads)])
    luck = np.repeat([e.noise for e in leads], sizes)
    signals = [without_luck(float(e.before.var()), e.noise) for e in leads]
    apart = (np.repeat(signals, sizes) * ahead) ** 2

    def negative_log_likelihood(logs: np.ndarray) -> float:
        own, shrink, scatter = np.exp(logs)
        left = np.repeat(np.exp(-shrink * drawn), sizes)
        variance = own**2 + scatter**2 * apart + left**2 * luck + _LEAST**2
        tails = np.log1p((after - before * left) ** 2 / variance / FREEDOM)
        densities = np.log(variance) + (FREEDOM + 1) * tails
        return float(np.sum(np.add.reduceat(densities, starts_at) / sizes))

    own, shrink, scatter = _greatest(negative_log_likelihood, ((0.2, 0.5, 1.0), (0.1, 0.2, 0.5)))
    return own, shrink, scatter


# Fitted to experiments/corpus by `python -m experiments.compare_predictors`, which prints them.
PRIORS: Priors = {
    "probe": Prior(1.79, spread=0.00, own=0.07, shrink=0.96, scatter=0.93, unforeseen=1.72),
    "trainable_probe": Prior(
        0.67, spread=0.28, own=0.11, shrink=0.97, scatter=1.09, unforeseen=2.17
    ),
    "linear": Prior(0.51, spread=0.39, own=0.06, shrink=1.18, scatter=0.87, unforeseen=1.21),
}
