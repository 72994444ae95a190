"""From a score to a predicted accuracy, with an uncertainty: for methods that only rank.

Three steps, all on the logit scale z = log(p / (1 − p)), all from the pool's own records:

1. Relation. Over every model i and every epoch k = 1..n, the validation accuracy is regressed on
   the score that the method gives after k epochs:

       z_ik = a + b link(score_ik) + e_ik,   least squares                                    (C1)
       a_k = mean_i (z_ik − b link(score_ik)),   σ² = variance of z_ik − a_k − b link(score_ik)

   All epochs together fix the slope b; the prediction starts from the last epoch's own level
   a_n, because the relation drifts as training goes on. An increasing line keeps the order of
   the scores, so it cannot change the ranking.
2. Growth. Accuracy goes on rising after the last epoch: every model gains what its pool is
   expected to gain, and its lead over the pool's mean shrinks, equations (G1) and (G2) of
   `ncap_jax.predictor.growth`; both keep the order too.
3. Uncertainty. Of who is better: σ, shrunk like the leads, and the error of (G2). Of the accuracy:
   the error of the gain as well, which all models share and which decides nothing between them:

       own² = (σ exp(-k gain))² + Var(e),   std² = own² + (spread · gain)²                    (C2)

   with the constants of the same prior. Mean and standard deviation of the accuracy are those of
   the logit-normal, by Gauss-Hermite quadrature; `own` is carried to the accuracy scale by the
   derivative of that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from ncap_jax.predictor import growth
from ncap_jax.predictor.base import Predictor, no_prediction, trained, truncate
from ncap_jax.types import Prediction, Trajectory

# Below this many records the residual spread of the relation is a guess.
FEW_RECORDS = 8
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


class Relation(NamedTuple):
    """The fitted line (C1): z = level + slope · link(score), spread σ, number of records."""

    level: float
    slope: float
    spread: float
    records: int


def _score_history(
    predictor: Predictor, trajectories: Sequence[Trajectory]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """link(score), logit accuracy and epoch, of every model after every epoch: flat arrays."""
    scores, accuracies, epochs = [], [], []
    longest = max((t.epochs for t in trajectories), default=0)
    for epoch in range(predictor.min_epochs, longest + 1):
        for trajectory, prediction in zip(trajectories, predictor(trajectories, epoch)):
            accuracy = trained(trajectory, "validation_accuracy")
            if trajectory.epochs < epoch:
                continue
            if np.isfinite(prediction.mean) and np.isfinite(accuracy[epoch - 1]):
                scores.append(predictor.link(prediction.mean))
                accuracies.append(accuracy[epoch - 1])
                epochs.append(epoch)
    return np.array(scores), growth.clipped_logit(np.array(accuracies)), np.array(epochs)


def fit_relation(x: np.ndarray, z: np.ndarray, epoch: np.ndarray) -> Relation | None:
    """Least squares for (C1); None where three points, a spread of x or b > 0 are wanting.

    Args:
        x: (N,) link(score).
        z: (N,) logit accuracy.
        epoch: (N,) integers, the epoch of each record.
    """
    if x.size < 3 or np.ptp(x) == 0:
        return None
    slope, level = np.polyfit(x, z, 1)
    if slope <= 0:
        return None
    residuals, freedom = z - (level + slope * x), x.size - 2
    epochs, group, counts = np.unique(epoch, return_inverse=True, return_counts=True)
    if x.size > epochs.size + 1:  # several models: every epoch has its own level
        offsets = np.bincount(group, residuals) / counts
        level += offsets[-1]
        residuals, freedom = residuals - offsets[group], x.size - epochs.size - 1
    spread = float(np.sqrt(np.sum(residuals**2) / freedom))
    return Relation(float(level), float(slope), spread, int(x.size))


class Accuracy(NamedTuple):
    """Moments of expit(Z), Z ~ N(m, s²): mean, standard deviation, and d mean / d m."""

    mean: float
    std: float
    slope: float


def logit_normal(mean: float, std: float) -> Accuracy:
    """Moments of the logit-normal by Gauss-Hermite quadrature."""
    values = expit(mean + std * _NODES)
    weights = _WEIGHTS / np.sum(_WEIGHTS)
    center = float(np.sum(weights * values))
    spread = float(np.sqrt(np.sum(weights * (values - center) ** 2)))
    return Accuracy(center, spread, float(np.sum(weights * values * (1.0 - values))))


def calibrated(
    predictor: Predictor,
    trajectories: Sequence[Trajectory],
    epochs: int | None = None,
    priors: growth.Priors = growth.PRIORS,
) -> list[Prediction]:
    """Predicted accuracy at convergence, with standard deviation, from a score-only method.

    Args:
        predictor: a method with `scores_only`.
        trajectories: the pool; the relation is fitted on all of it.
        epochs: look at the first so many epochs only; None: at all.
        priors: what finished runs say of growth, by head.

    Returns:
        One per trajectory. Where no increasing relation can be fitted, the last seen accuracy
        with std NaN, flagged; where records or epochs are few, flagged.
    """
    if not trajectories:
        return []
    pool = [truncate(t, epochs) for t in trajectories]
    scores = predictor(pool)
    relation = fit_relation(*_score_history(predictor, pool))
    prior = priors[pool[0].head]
    gain = growth.gain(pool, prior) or 0.0
    flags = []
    if max((t.epochs for t in pool), default=0) < 2:
        flags.append("one epoch only: what is still to be gained is a guess")
    if relation is None:
        return [_last_seen(t, score) for t, score in zip(pool, scores, strict=True)]
    if relation.records < FEW_RECORDS:
        flags.append(f"uncertainty from {relation.records} records only")
    left = float(np.exp(-prior.shrink * gain))  # of a lead (G2)
    links = [predictor.link(s.mean) if np.isfinite(s.mean) else np.nan for s in scores]
    seen = relation.level + relation.slope * np.array(links)
    finite = seen[np.isfinite(seen)]
    middle, apart = (finite.mean(), finite.std()) if finite.size else (0.0, 0.0)
    curve = growth.mean_curve(pool)
    rise = float(curve[-1] - curve[0]) if curve.size else 0.0
    own = float(np.hypot(left * relation.spread, growth.scatter(prior, gain, rise, apart)))
    std = float(np.hypot(own, prior.spread * gain))  # (C2)
    answers = []
    for score, z in zip(scores, seen, strict=True):
        if not np.isfinite(z):
            answers.append(no_prediction(score.flag))
            continue
        accuracy = logit_normal(float(middle + left * (z - middle) + gain), std)
        flag = "; ".join(([score.flag] if score.flag else []) + flags)
        answers.append(Prediction(accuracy.mean, accuracy.std, flag, own * accuracy.slope))
    return answers


def _last_seen(trajectory: Trajectory, score: Prediction) -> Prediction:
    """The answer where scores and accuracies have no increasing relation."""
    if not np.isfinite(score.mean):
        return no_prediction(score.flag)
    accuracy = trained(trajectory, "validation_accuracy")
    if not np.isfinite(accuracy[-1]):
        return no_prediction("the last validation accuracy is not finite")
    reason = "the scores do not explain the accuracies seen: last seen accuracy shown"
    return Prediction(float(accuracy[-1]), flag=reason)
