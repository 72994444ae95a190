"""Last seen value: the validation accuracy after the last epoch, taken as the final one."""

from __future__ import annotations

import numpy as np

from ncap_jax.predictor.base import no_prediction, per_model, trained_series
from ncap_jax.predictor.growth import clipped_logit
from ncap_jax.types import Prediction, Trajectory


def last_seen(trajectory: Trajectory) -> Prediction:
    """Validation accuracy of the last epoch; states no uncertainty.

    Args:
        trajectory: one run; epoch 0 (before training) does not count.

    Returns:
        `mean` in [0, 1], `std` NaN; a flagged NaN where the last value is not finite.
    """
    accuracy = trained_series(trajectory, "validation_accuracy")
    if accuracy.size == 0:
        return no_prediction("no epoch recorded")
    if not np.isfinite(accuracy[-1]):
        return no_prediction("the last validation accuracy is not finite")
    return Prediction(float(accuracy[-1]))


def logit_link(accuracy: float) -> float:
    """The scale on which accuracies grow (`ncap_jax.predictor.growth`)."""
    return float(clipped_logit(np.asarray(accuracy)))


predict = per_model(last_seen)
