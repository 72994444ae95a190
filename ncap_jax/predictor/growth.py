"""How much accuracy a pool still gains after its last epoch: a law fitted to finished runs.

On the logit scale the mean accuracy of a pool rises about linearly in the logarithm of training
time, ever more slowly towards its end. How soon it slows down shows in the losses: as long as the
images that validate are answered as well as those that train, all that is still to be learned of
the latter helps with the former; once a pool overfits, little does. From the slope b over the later
half of the epochs and the share ρ of the validation loss that training images do not have,

    gain = c max(0, b) / ρ^0.4,   ρ = max(1 - L_train / L_validation, 1 / (3 √m))
    b = least-squares slope of z̄_k on ln(1 + t_k / 8), k = ⌊n/2⌋..n                        (G1)

with z̄_k the mean logit of validation accuracy after k epochs, k = 0 before training, t_k the steps
so far (8: `UNIT_STEPS`), and L the mean losses of the pool after n epochs. Training c / ρ^0.4
e-foldings longer at the present slope would gain as much. A run that has flattened out gains
little, and so does one that has many steps behind it, on a large set for instance. A mean loss of m
images is known to about 1 / √m of itself; ρ is not believed to be smaller than a third of that.
`experiments/growth_study.py` compares steps with epochs, and the law with one that does not look at
the losses.

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

The constants are fitted to finished runs (`ncap_jax.predictor.growth_fit`). How well they hold on a
set to which they were not fitted: `experiments/compare_predictors.py` and
`experiments/shortlist_study.py`, docs/results/early-signals.md and docs/results/shortlist.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logit
from scipy.stats import norm
from scipy.stats import t as student

from ncap_jax.options import Head
from ncap_jax.predictor.validation_size import by_laplace
from ncap_jax.types import Trajectory

# Accuracies are held this far from 0 and 1 before the logit: one wrong in two hundred.
EDGE = 0.005
_HIGHEST = float(logit(1.0 - EDGE))  # z_max of (G4)
# The unit of training time in (G1), in steps; and what an epoch of a record that does not count
# steps is taken to have.
UNIT_STEPS = 8
# The 0.4 of (G1); the ρ of a pool without losses, the geometric mean of the corpus; and its lower
# bound where nobody knows how many images validate.
BY_GAP, USUAL_GAP, LEAST_GAP = 0.4, 0.13, 0.01
FREEDOM = 4.0  # degrees of freedom of Student's t
HEAVY = float(np.sqrt(FREEDOM / (FREEDOM - 2)))  # its standard deviation over its scale
# Standard deviation of the normal with its quartiles, over its scale.
QUARTILES = float(student.ppf(0.75, FREEDOM) / norm.ppf(0.75))
# The ½ of (G2), in logits.
_BEGUN = 0.5


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


def _longest(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The models of greatest length whose accuracies are all finite."""
    longest = max((t.epochs for t in trajectories), default=0)
    return [
        t
        for t in trajectories
        if (accuracy := t.series("validation_accuracy")).size
        and t.epochs == longest
        and np.all(np.isfinite(accuracy))
    ]


def mean_curve(trajectories: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """z̄_0..z̄_n and t_0..t_n over the models of greatest length whose accuracies are all finite."""
    full = [
        (clipped_logit(t.series("validation_accuracy")), training_steps(t))
        for t in _longest(trajectories)
    ]
    if not full:
        return np.zeros(0), np.zeros(0)
    curve, steps = np.mean(full, axis=0)
    return curve, steps


def loss_gap(trajectories: Sequence[Trajectory], images: int | None) -> float:
    """ρ of (G1), in (0, 1], after the last epoch of the models of greatest length.

    Args:
        trajectories: the pool; where none of these models has finite losses, ρ is `USUAL_GAP`.
        images: m; None or 0: not known.
    """
    ends = [t.records[-1] for t in _longest(trajectories)]
    losses = np.array([(record.train_loss, record.validation_loss) for record in ends])
    known = losses[np.isfinite(losses).all(axis=1)] if ends else np.zeros((0, 2))
    train, validation = known.mean(axis=0) if known.size else (0.0, 0.0)
    if validation <= 0:
        return USUAL_GAP
    least = 1 / (3 * np.sqrt(images)) if images else LEAST_GAP
    return float(max(1 - train / validation, least))


def pace(slope: float, gap: float) -> float:
    """What c of (G1) multiplies, in logits: of b and ρ."""
    return max(0.0, slope) / gap**BY_GAP


def gain(
    trajectories: Sequence[Trajectory], prior: Prior, images: int | None = None
) -> float | None:
    """Equation (G1); None if no model has an epoch of training and a finite curve.

    Args:
        trajectories: the pool.
        prior: of its head.
        images: m, of the validation part; None: not known.
    """
    curve, steps = mean_curve(trajectories)
    if curve.size < 2:
        return None
    return prior.growth * pace(log_slope(curve, steps), loss_gap(trajectories, images))


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


# Fitted to experiments/corpus by `python -m experiments.compare_predictors`, which prints them.
PRIORS: Priors = {
    "probe": Prior(0.79, spread=0.00, own=0.07, shrink=1.05, scatter=0.94, unforeseen=1.71),
    "trainable_probe": Prior(
        0.41, spread=0.25, own=0.11, shrink=1.02, scatter=1.08, unforeseen=1.97
    ),
    "linear": Prior(0.31, spread=0.23, own=0.07, shrink=1.18, scatter=0.93, unforeseen=1.08),
}
