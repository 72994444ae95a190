"""Best seen value: the highest validation accuracy so far, taken as the final one."""

from __future__ import annotations

import numpy as np

from ncap_jax.predictor.base import no_prediction, per_model, trained_series
from ncap_jax.types import Prediction, Trajectory


def best_seen(trajectory: Trajectory) -> Prediction:
    """Highest finite validation accuracy of the epochs after epoch 0; states no uncertainty.

    Args:
        trajectory: one run; epoch 0 (before training) does not count.

    Returns:
        `mean` in [0, 1], `std` NaN; flagged where some value was not finite.
    """
    accuracy = trained_series(trajectory, "validation_accuracy")
    finite = accuracy[np.isfinite(accuracy)]
    if finite.size == 0:
        return no_prediction("no finite validation accuracy recorded")
    flag = "" if finite.size == accuracy.size else "some validation accuracies are not finite"
    return Prediction(float(finite.max()), flag=flag)


predict = per_model(best_seen)
