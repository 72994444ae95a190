"""The validation score by which models are predicted and ranked: accuracy, or a metric by class.

Of the n images of the validation part let n_k be of class k, r_k of these answered right, and a_k
of all n answered with class k. Then

    accuracy           Σ_k r_k / n                                                          (S1)
    balanced accuracy  mean of r_k / n_k over the classes that occur, n_k > 0               (S2)
    macro F1           mean of 2 r_k / (n_k + a_k) over the classes that occur in the
                       validation part or in the answers, n_k + a_k > 0                     (S3)

as scikit-learn has them: a class without validation images does not count in (S2); in (S3) it
counts with an F1 of 0 as soon as it is answered. Of several probes the mean is taken.

Here alone the metric is computed. What comes after, predictors, growth and ranking, sees
trajectories whose `validation_accuracy` is the score (`as_scored`).

How much a score says of a few images. Where classes count alike, an image of a rare class weighs
more, and the standard error is that of fewer images. With K classes that occur,

    m = K² / Σ_k (1 / n_k),   the sum over these classes                                    (S4)

is the number of images in equal classes that (S2) would be as sure from: Σ_k p (1 − p) / n_k / K²
is p (1 − p) / m. It is taken for (S3) too, and is n where the classes are equal. Two scores p and q
differ with a standard error of

    √(v(p) + v(q)),   v(p) = p̂ (1 − p̂) / m,   p̂ = (m p + 1) / (m + 2)                      (S5)

by Laplace's rule, so that none or all answers right do not count as certain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ncap_jax import errors
from ncap_jax.predictor.validation_size import by_laplace
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

if TYPE_CHECKING:
    from ncap_jax.options import Metric


def score(record: EpochRecord, metric: Metric) -> float:
    """The validation score of one epoch, in [0, 1].

    Args:
        record: of the epoch.
        metric: which score.

    Raises:
        DataError: the record has no counts by class, which every metric but accuracy needs.
    """
    if metric == "accuracy":
        return record.validation_accuracy  # (S1)
    if record.validation_counts is None:
        raise errors.DataError(
            f"epoch {record.epoch} was recorded without the answers by class that "
            f"metric={metric!r} is computed from",
            "Use metric='accuracy', or rank again in another folder",
        )
    return of_counts(record.validation_counts, metric)


def of_counts(counts: ClassCounts, metric: Metric) -> float:
    """The score of answers that were counted by class; NaN if there are none."""
    images = np.array(counts.images, dtype=np.float64)
    correct, predicted = np.array(counts.correct, float), np.array(counts.predicted, float)
    if metric == "accuracy":
        return _ratio(correct.sum(axis=1), images.sum(keepdims=True))  # (S1)
    if metric == "balanced_accuracy":
        occurs = images > 0
        return _ratio(correct[:, occurs], images[None, occurs])  # (S2)
    scores = [
        _ratio(2 * right[known], both[known])  # (S3)
        for right, both in zip(correct, images[None, :] + predicted)
        for known in [both > 0]
    ]
    return float(np.mean(scores))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """The mean of the quotients; NaN where there are none."""
    quotients = numerator / denominator if np.all(denominator > 0) else np.zeros(0)
    return float(np.mean(quotients)) if quotients.size else math.nan


def as_scored(trajectories: Sequence[Trajectory], metric: Metric) -> tuple[Trajectory, ...]:
    """Trajectories whose `validation_accuracy` is the score; with `accuracy` as they are.

    Raises:
        DataError: see `score`; the model is named.
    """
    if metric == "accuracy":
        return tuple(trajectories)
    return tuple(_scored(trajectory, metric) for trajectory in trajectories)


def _scored(trajectory: Trajectory, metric: Metric) -> Trajectory:
    try:
        scored = tuple(
            dataclasses.replace(record, validation_accuracy=score(record, metric))
            for record in trajectory.records
        )
    except errors.DataError as error:
        raise errors.DataError(f"{trajectory.model}: {error.cause}", error.remedy) from None
    return dataclasses.replace(trajectory, records=scored)


def counted_images(trajectories: Sequence[Trajectory]) -> tuple[int, ...]:
    """The number of validation images of each class; empty where no record has counts."""
    return next((t.validation_images for t in trajectories if t.validation_images), ())


def effective_images(images: Sequence[int], metric: Metric) -> int:
    """How many images a score is as sure as, (S4), rounded down.

    Args:
        images: the number of validation images of each class.
        metric: which score.
    """
    occurring = [count for count in images if count]
    if metric == "accuracy" or not occurring:
        return sum(images)
    return math.floor(len(occurring) ** 2 / sum(1 / count for count in occurring) + 1e-9)  # (S4)


def difference_error(one: float, other: float, images: int) -> float:
    """The standard error of the difference of two scores, as of independent shares, (S5).

    Models that fail on the same images differ by less.

    Args:
        one: a score in [0, 1].
        other: likewise.
        images: how many the scores are as sure as, at least 1.
    """
    shares = by_laplace(np.array([one, other]), images)
    return math.sqrt(float(np.sum(shares * (1 - shares))) / images)  # (S5)


class Constant(NamedTuple):
    """What always answering one class scores, and the standard error of a score as low as that."""

    score: float
    error: float


def constant_answer(images: Sequence[int], metric: Metric, share: float) -> Constant:
    """The score of always giving one class.

    Args:
        images: the number of validation images of each class.
        metric: which score.
        share: of the validation images that are of the class.
    """
    occurring = sum(count > 0 for count in images)
    found = {
        "accuracy": share,
        "balanced_accuracy": 1 / occurring,
        "macro_f1": 2 * share / (1 + share) / occurring,
    }[metric]
    return Constant(found, math.sqrt(found * (1 - found) / effective_images(images, metric)))
