"""The last validation or training loss: of the simple rivals the hardest to beat.

Lower is better, so the score is minus the loss in nats. A loss says nothing about accuracy at
convergence by itself; `ncap_jax.predictor.calibration` turns it into one.
"""

from __future__ import annotations

import math

import numpy as np

from ncap_jax.predictor.base import no_prediction, per_model, trained_series
from ncap_jax.types import Prediction, Trajectory

# A cross-entropy below this is zero for every purpose; keeps the logarithm finite.
_SMALLEST_LOSS = 1e-6


def log_link(score: float) -> float:
    """-log(loss) of a score = -loss: accuracy's logit is about linear in the log of the loss."""
    return -math.log(max(-score, _SMALLEST_LOSS))


def _last(trajectory: Trajectory, name: str) -> Prediction:
    loss = trained_series(trajectory, name)
    if loss.size == 0:
        return no_prediction("no epoch recorded")
    if not np.isfinite(loss[-1]):
        return no_prediction(f"the last {name.replace('_', ' ')} is not finite")
    return Prediction(-float(loss[-1]))


def last_validation_loss(trajectory: Trajectory) -> Prediction:
    """Minus the validation cross-entropy (nats) of the last epoch; a score, not an accuracy."""
    return _last(trajectory, "validation_loss")


def last_training_loss(trajectory: Trajectory) -> Prediction:
    """Minus the training cross-entropy (nats) of the last epoch; a score, not an accuracy.

    `train_loss` is measured in inference mode on the measurement subset after the epoch, so it
    belongs to the same weights as the validation loss beside it.
    """
    return _last(trajectory, "train_loss")


predict_validation = per_model(last_validation_loss)
predict_training = per_model(last_training_loss)
