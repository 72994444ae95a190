"""Sum of training losses: a model that trains faster tends to end better.

    SoTL = Σ_{t=1..n} loss_t,   SoTL-E = the same sum over the last E epochs                (S1)

with loss_t the mean minibatch loss of epoch t in training mode. Lower is better; the score here
is minus the *mean* over the same epochs. It ranks equally long runs as the sum does, and can be
related to accuracy after any number of epochs (`ncap_jax.predictor.calibration`).

Source: Ru et al., "Speedy Performance Estimation for Neural Architecture Search", NeurIPS 2021
(arXiv 2006.04492); its recommended estimator has E = 1.
"""

from __future__ import annotations

import numpy as np

from ncap_jax.predictor.base import PoolFunction, no_prediction, per_model, trained_series
from ncap_jax.types import Prediction, Trajectory


def sum_of_training_losses(last: int | None = None) -> PoolFunction:
    """(S1) as a method of the pool.

    Args:
        last: E, the number of epochs that count; None: all.
    """

    def score(trajectory: Trajectory) -> Prediction:
        loss = trained_series(trajectory, "running_loss")
        loss = loss if last is None else loss[-last:]
        if loss.size == 0:
            return no_prediction("no epoch recorded")
        if not np.all(np.isfinite(loss)):
            return no_prediction("a training loss is missing or not finite")
        return Prediction(-float(np.mean(loss)))

    return per_model(score)
