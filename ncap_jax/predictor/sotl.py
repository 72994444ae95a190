"""Sum of training losses: how fast a model trains says how well it will do.

    SoTL = Σ_{t=1..n} loss_t,   SoTL-E = the same sum over the last E epochs                (S1)

with loss_t the mean minibatch loss of epoch t in training mode. Lower is better; the score here
is minus the *mean* over the same epochs, which ranks equally long runs as the sum does and can
be set against accuracy after any number of epochs (`ncap_jax.predictor.calibration`).

Source: Ru et al., "Speedy Performance Estimation for Neural Architecture Search", NeurIPS 2021
(arXiv 2006.04492); its recommended estimator has E = 1.
"""

from __future__ import annotations

import numpy as np

from ncap_jax.predictor.base import PoolFunction, no_prediction, per_model, trained
from ncap_jax.types import Prediction, Trajectory


def sum_of_training_losses(last: int | None = None) -> PoolFunction:
    """(S1) as a method of the pool: over the last so many epochs, or over all (None)."""

    def score(trajectory: Trajectory) -> Prediction:
        loss = trained(trajectory, "running_loss")
        loss = loss if last is None else loss[-last:]
        if loss.size == 0:
            return no_prediction("no epoch recorded")
        if not np.all(np.isfinite(loss)):
            return no_prediction("a training loss is missing or not finite")
        return Prediction(-float(np.mean(loss)))

    return per_model(score)
