"""Predicted accuracies of every method: for one that only ranks, its scores are calibrated.

Calibration takes three steps, all on the logit scale z = log(p / (1 − p)) and all from the pool's
own records:

1. Relation. Over every model i and every epoch k = 1..n, the validation accuracy is regressed on
   the score that the method gives after k epochs:

       z_ik = a + b link(score_ik) + e_ik,   least squares                                    (C1)
       a_k = mean_i (z_ik − b link(score_ik)),   σ² = variance of z_ik − a_k − b link(score_ik)

   All epochs together fix the slope b; the prediction starts from the last epoch's own level
   a_n, because the relation drifts during training. An increasing line keeps the order of the
   scores, so it cannot change the ranking.
2. Growth. Accuracy still rises after the last epoch: every model gains what its pool is expected
   to gain, and its lead over the pool's mean shrinks, equations (G1) and (G2) of
   `ncap_jax.predictor.growth`; both keep the order too. How far a lead is trusted depends on the
   number of validation images, (G3). Where they are few, accuracies and leads are drawn in, (V3) of
   `ncap_jax.predictor.validation_size`.
3. Uncertainty. About which model is better: the scale of (G2), where σ takes the place of the luck
   with the validation images if it is more, because it contains it. About the accuracy: the error
   of the gain too, which all models share, so that it decides nothing between them:

       own_i² = max(σ², v) left² + own'² + q² S² u_i²,   std² = 2 own² + variance of (G4)       (C2)

   with the constants of the same prior, own' being its own, and own² as own_i² with the pool's u:
   one std for all keeps the order of the means. The 2 makes a standard deviation of the scale of
   Student's t. Which of two models is better is told as of normals with the quartiles of that t,
   whose standard deviation is 1.10 own_i: docs/results/shortlist.md compares the shortlists and
   regrets that follow with finished runs.
   Mean and standard deviation of the accuracy are those of the logit-normal, by Gauss-Hermite
   quadrature; `own` is carried to the accuracy scale by the derivative of that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from ncap_jax.predictor import growth
from ncap_jax.predictor.base import Predictor, no_prediction, trained_series, truncate
from ncap_jax.predictor.validation_size import are_few, by_laplace
from ncap_jax.types import Prediction, Trajectory

# Below this many records the noise of the relation is a guess.
FEW_RECORDS = 8
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


class Relation(NamedTuple):
    """The fitted line (C1): z = level + slope · link(score), noise σ, number of records."""

    level: float
    slope: float
    noise: float
    records: int


def _score_history(
    predictor: Predictor, trajectories: Sequence[Trajectory], images: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """link(score), logit accuracy and epoch of every model after every epoch, (N,) each.

    Of few images the accuracy is that of Laplace's rule (V3).
    """
    scores, accuracies, epochs = [], [], []
    longest = max((t.epochs for t in trajectories), default=0)
    for epoch in range(predictor.min_epochs, longest + 1):
        for trajectory, prediction in zip(trajectories, predictor(trajectories, epoch)):
            accuracy = trained_series(trajectory, "validation_accuracy")
            if trajectory.epochs < epoch:
                continue
            if np.isfinite(prediction.mean) and np.isfinite(accuracy[epoch - 1]):
                scores.append(predictor.link(prediction.mean))
                accuracies.append(accuracy[epoch - 1])
                epochs.append(epoch)
    seen = np.array(accuracies)
    if are_few(images):
        seen = by_laplace(seen, images)
    return np.array(scores), growth.clipped_logit(seen), np.array(epochs)


def fit_relation(x: np.ndarray, z: np.ndarray, epoch: np.ndarray) -> Relation | None:
    """Least squares for (C1).

    Args:
        x: (N,) link(score).
        z: (N,) logit accuracy.
        epoch: (N,) integers, the epoch of each record.

    Returns:
        None where there are fewer than three records, where x does not vary, or where b ≤ 0.
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
    noise = float(np.sqrt(np.sum(residuals**2) / freedom))
    return Relation(float(level), float(slope), noise, int(x.size))


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


class Outlook(NamedTuple):
    """What a pool still gains, and how sure that is: (G1), (G2) and (C2), in logits.

    Attributes:
        gain: of every model.
        left: the share of a model's lead over the pool that is left at the end.
        own: (models,) scales of the models' own errors.
        std: standard deviation of a model's whole error: one for all, which keeps their order.
    """

    gain: float
    left: float
    own: np.ndarray
    std: float


def _outlook(
    pool: Sequence[Trajectory], prior: growth.Prior, seen: _Seen, images: int | None
) -> Outlook:
    """What is to be expected of a pool; `images`: m of (G1) and (G3)."""
    gain = growth.gain(pool, prior, images) or 0.0
    curve, _ = growth.mean_curve(pool)
    level = float(curve[-1]) if curve.size else 0.0
    rise = float(curve[-1] - curve[0]) if curve.size else 0.0
    luck = growth.image_noise(_last_accuracies(pool), images)
    signal = growth.without_luck(seen.variance, luck)
    apart = float(np.sqrt(seen.narrowed)) * signal
    left = growth.lead_left(prior, gain, rise)  # (G2)
    trusted = signal**2 / seen.variance if are_few(images) and seen.variance else 1.0  # (V3)
    doubt = left * np.sqrt(trusted * max(seen.noise**2, luck))
    rises = growth.own_rises(rise, np.append(seen.leads, 0.0))  # the last one: of the pool
    *own, of_pool = np.hypot(doubt, growth.scatter(prior, gain, rises, apart))
    error = growth.gain_error(prior, gain, rise, level)
    std = float(np.hypot(growth.HEAVY * of_pool, error))  # (C2)
    return Outlook(gain, left * trusted, np.array(own), std)


class _Seen(NamedTuple):
    """The pool on the scale of (C1): mean, x and s² of the models' logits, σ, and N of (A2)."""

    middle: float
    leads: np.ndarray
    variance: float
    noise: float
    narrowed: float


def _last_accuracies(pool: Sequence[Trajectory]) -> np.ndarray:
    """(models,) that are finite; a half where there are none."""
    last = np.array([trained_series(t, "validation_accuracy")[-1:] for t in pool if t.epochs])
    finite = last[np.isfinite(last)]
    return finite if finite.size else np.array([0.5])


def accuracies(
    predictor: Predictor,
    trajectories: Sequence[Trajectory],
    epochs: int | None = None,
    *,
    scores: Sequence[Prediction] | None = None,
    priors: growth.Priors = growth.PRIORS,
    images: int | None = None,
    narrowed: float = 1.0,
) -> list[Prediction]:
    """Predicted accuracies at convergence, by any method.

    Args:
        predictor: a method that predicts accuracies, which are returned as they are, or one with
            `scores_only`, whose scores are calibrated.
        trajectories: the pool, of one head; scores are calibrated on all of it.
        epochs: only the first `epochs` epochs count; None: all.
        scores: what `predictor` says of these trajectories after these epochs, where that is known
            already; None: it is asked.
        priors: what finished runs say of growth, by head.
        images: how many the validation part is worth; None: as many as the records count, and where
            they count none, enough that luck plays no part.
        narrowed: S² of (G3) is multiplied by it: how much more alike the pool is than the models
            that it was chosen from (`ncap_jax.predictor.common_scale`).

    Returns:
        One per trajectory. Calibrated predictions are flagged where records or epochs are few.
        Where the scores and the accuracies have no increasing relation, the last accuracy seen,
        with std NaN and flagged.
    """
    pool = [truncate(t, epochs) for t in trajectories]
    scores = predictor(pool) if scores is None else list(scores)
    if not predictor.scores_only or not pool:
        return scores
    images = images or growth.validation_images(pool)
    return _calibrated(predictor, pool, scores, priors[pool[0].head], images, narrowed)


def _calibrated(
    predictor: Predictor,
    pool: Sequence[Trajectory],
    scores: Sequence[Prediction],
    prior: growth.Prior,
    images: int | None,
    narrowed: float,
) -> list[Prediction]:
    """The three steps of calibration."""
    relation = fit_relation(*_score_history(predictor, pool, images))
    if relation is None:
        return [_last_seen(t, score) for t, score in zip(pool, scores, strict=True)]
    links = [predictor.link(s.mean) if np.isfinite(s.mean) else np.nan for s in scores]
    logits = relation.level + relation.slope * np.array(links)  # (C1)
    finite = logits[np.isfinite(logits)]
    middle, variance = (float(finite.mean()), float(finite.var())) if finite.size else (0.0, 0.0)
    seen = _Seen(middle, logits - middle, variance, relation.noise, narrowed)
    outlook = _outlook(pool, prior, seen, images)
    flags = _doubts(pool, relation)
    ends = (middle + outlook.left * seen.leads + outlook.gain).tolist()  # (G2)
    answers = []
    for score, end, own in zip(scores, ends, outlook.own.tolist(), strict=True):
        if not np.isfinite(end):
            answers.append(no_prediction(score.flag))
            continue
        accuracy = logit_normal(end, outlook.std)
        flag = "; ".join(filter(None, (score.flag, *flags)))
        own_std = growth.QUARTILES * own * accuracy.slope
        answers.append(Prediction(accuracy.mean, accuracy.std, flag, own_std))
    return answers


def _doubts(pool: Sequence[Trajectory], relation: Relation) -> list[str]:
    """The flags of all of a pool's predictions."""
    flags = []
    if max(t.epochs for t in pool) < 2:
        flags.append("one epoch only: what is still to be gained is a guess")
    if relation.records < FEW_RECORDS:
        flags.append(f"uncertainty from {relation.records} records only")
    return flags


def _last_seen(trajectory: Trajectory, score: Prediction) -> Prediction:
    """The answer where scores and accuracies have no increasing relation."""
    if not np.isfinite(score.mean):
        return no_prediction(score.flag)
    accuracy = trained_series(trajectory, "validation_accuracy")
    if not np.isfinite(accuracy[-1]):
        return no_prediction("the last validation accuracy is not finite")
    reason = "the scores do not explain the accuracies seen: last seen accuracy shown"
    return Prediction(float(accuracy[-1]), flag=reason)
