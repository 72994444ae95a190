"""Accuracies of few validation images, together with the training loss.

The accuracy of m images is blurred by luck, the training loss needs none of them. Below `FEW`
images both together order models better (experiments/few_images_study.py,
docs/results/few-images.md). Let p be the accuracies, and l the training losses, of a pool's models
with the same number of epochs, after the last one. Then

    score_i = mean p + s · (z(p)_i + z(−l)_i) / 2                                          (V2)

where z divides the distance from the mean by the standard deviation over the models, and s is that
of the accuracies or, if they are all equal, the standard error (S5) of a difference between two. So
the score is an accuracy still, and where all accuracies are equal the losses decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ncap_jax.predictor.base import PoolFunction, by_length, trained_series
from ncap_jax.predictor.validation_score import counted_images, difference_error
from ncap_jax.predictor.validation_size import are_few
from ncap_jax.types import Prediction, Trajectory

_FLAG = "with so few validation images the training loss counts as much as the accuracy"


def where_images_are_few(accuracies: PoolFunction) -> PoolFunction:
    """A method that takes the training loss into account where fewer than `FEW` images validate.

    Args:
        accuracies: a method whose `mean` is an accuracy.

    Returns:
        A method that says the same where there are enough images, or where no record counts them;
        else scores (V2) in accuracies, flagged. A model without a finite loss or accuracy keeps the
        answer of `accuracies`, and so does one that has no other to be compared with.
    """

    def predict(pool: Sequence[Trajectory]) -> list[Prediction]:
        images = sum(counted_images(pool))
        if not are_few(images):
            return accuracies(pool)
        return by_length(lambda group, epochs: _together(group, accuracies(group), images))(pool)

    return predict


def _together(
    pool: Sequence[Trajectory], plain: Sequence[Prediction], images: int
) -> list[Prediction]:
    """Equation (V2) for models with the same number of epochs."""
    accuracy = np.array([p.mean for p in plain])
    loss = np.array([trained_series(t, "train_loss")[-1] if t.epochs else np.nan for t in pool])
    known = np.isfinite(accuracy) & np.isfinite(loss)
    if known.sum() < 2:
        return list(plain)
    middle = float(accuracy[known].mean())
    scale = accuracy[known].std() or difference_error(middle, middle, images)
    both = standardised(accuracy[known]) + standardised(-loss[known])
    scores = iter((middle + scale * both / 2).tolist())  # (V2)
    return [
        Prediction(next(scores), flag=_FLAG) if compared else answer
        for compared, answer in zip(known, plain, strict=True)
    ]


def standardised(values: np.ndarray) -> np.ndarray:
    """(..., models), with mean 0 and standard deviation 1 over models; equal values are all 0."""
    spread = values.std(axis=-1, keepdims=True)
    return (values - values.mean(axis=-1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
