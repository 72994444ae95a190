"""The constants of the growth law, from pools of finished runs.

Each head has its own: what is predicted is the end of *ordinary fine-tuning*, which a frozen probe
only approaches from below. In the equations of `ncap_jax.predictor.growth`, c is the median of
gain ρ^0.4 / b. r (`spread`) and w (`unforeseen`) maximise the likelihood of the gains, and k, own
and q that of (G2), with Student's t of 4 degrees of freedom, because a few pools and models end far
from where all signs point and must not blur the others; its standard deviation is √2 times its
scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.stats import t as student

from ncap_jax import errors
from ncap_jax.options import Head
from ncap_jax.predictor import growth as law
from ncap_jax.predictor.base import truncate
from ncap_jax.types import Trajectory

# Numbers of epochs after which the constants are fitted.
FITTED_EPOCHS = (1, 2, 3, 5)
# Slopes, over ρ^0.4, below this are too flat to divide by.
_FLAT = 0.05
# Lower bound of a logit's standard deviation: pools that follow the law exactly would have 0.
_LEAST = 0.01


class Leads(NamedTuple):
    """What (G1) to (G3) see of a pool: b, ρ, rise, mean gain, distances x and y, (models,), and v.

    `rise` is negative where accuracy fell.
    """

    slope: float
    gap: float
    rise: float
    gained: float
    before: np.ndarray
    after: np.ndarray
    noise: float

    @property
    def pace(self) -> float:
        """What c of (G1) multiplies."""
        return law.pace(self.slope, self.gap)

    @property
    def rises(self) -> np.ndarray:
        """(models,) from which each model's u_i follows."""
        return law.own_rises(self.rise, self.before)


def fit(
    pools: Sequence[Sequence[Trajectory]], finals: Sequence[Sequence[float]]
) -> dict[Head, law.Prior]:
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
        end = law.clipped_logit(np.asarray(final, dtype=np.float64))
        images = law.validation_images(pool)
        leads.setdefault(pool[0].head, []).extend(
            leads_of([truncate(t, n) for t in pool], end, images) for n in FITTED_EPOCHS
        )
    if not leads:
        raise errors.ConfigError(
            "no pool of finished runs to fit the growth law to", "Give at least one for each head"
        )
    return {head: fit_head(head, found) for head, found in leads.items()}


def leads_of(pool: Sequence[Trajectory], end: np.ndarray, images: int | None) -> Leads:
    """What the law sees of a pool whose models have one length.

    Args:
        pool: every model with n epochs and finite accuracies.
        end: (models,) logits at the end.
        images: m; None: not known.
    """
    seen = np.array([t.series("validation_accuracy") for t in pool])
    curves = law.clipped_logit(seen)
    middle = curves.mean(axis=0)
    return Leads(
        slope=law.log_slope(middle, law.training_steps(pool[0])),
        gap=law.loss_gap(pool, images),
        rise=float(middle[-1] - middle[0]),
        gained=float(end.mean() - middle[-1]),
        before=curves[:, -1] - middle[-1],
        after=end - end.mean(),
        noise=law.image_noise(seen[:, -1], images),
    )


def fit_head(head: Head, leads: Sequence[Leads]) -> law.Prior:
    """The constants of one head; see `fit`."""
    ratios = [e.gained / e.pace for e in leads if e.pace > _FLAT and e.gained > 0]
    if not ratios:
        raise errors.ConfigError(
            f"no pool with head {head!r} gains accuracy with training",
            "Give pools whose accuracy grows with training",
        )
    growth = float(np.median(ratios))
    spread, unforeseen = _fit_gains(leads, growth)
    return law.Prior(growth, spread, *_fit_leads(leads, growth), unforeseen)


def _fit_gains(leads: Sequence[Leads], growth: float) -> tuple[float, float]:
    """The r and w of greatest likelihood (G4) when c is known; pools count equally."""
    gain = growth * np.array([e.pace for e in leads])
    off = np.array([e.gained for e in leads]) - gain
    ahead = np.array([float(law.share_ahead(g, e.rise)) for g, e in zip(gain.tolist(), leads)])

    def negative_log_likelihood(logs: np.ndarray) -> float:
        spread, unforeseen = np.exp(logs)
        scale = np.sqrt((spread * gain) ** 2 + (unforeseen * ahead**2) ** 2 + _LEAST**2)
        return -float(np.sum(student.logpdf(off / scale, law.FREEDOM) - np.log(scale)))

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
    gain = [growth * e.pace for e in leads]
    drawn = np.array([law.drawing_in(g, e.rise) for g, e in zip(gain, leads)])
    ahead = np.concatenate([law.share_ahead(g, e.rises) for g, e in zip(gain, leads)])
    luck = np.repeat([e.noise for e in leads], sizes)
    signals = [law.without_luck(float(e.before.var()), e.noise) for e in leads]
    apart = (np.repeat(signals, sizes) * ahead) ** 2

    def negative_log_likelihood(logs: np.ndarray) -> float:
        own, shrink, scatter = np.exp(logs)
        left = np.repeat(np.exp(-shrink * drawn), sizes)
        variance = own**2 + scatter**2 * apart + left**2 * luck + _LEAST**2
        tails = np.log1p((after - before * left) ** 2 / variance / law.FREEDOM)
        densities = np.log(variance) + (law.FREEDOM + 1) * tails
        return float(np.sum(np.add.reduceat(densities, starts_at) / sizes))

    own, shrink, scatter = _greatest(negative_log_likelihood, ((0.2, 0.5, 1.0), (0.1, 0.2, 0.5)))
    return own, shrink, scatter
