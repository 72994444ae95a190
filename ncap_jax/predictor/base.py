"""One interface for every method that predicts from trajectories.

A method sees the whole pool at once, because some compare models with one another, and returns
one `Prediction` per trajectory. What a method cannot use (no epoch, NaN, infinity) comes back as a
flagged NaN: a method never raises on data and never drops a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ncap_jax import errors
from ncap_jax.types import Prediction, Strength, Trajectory

PoolFunction = Callable[[Sequence[Trajectory]], list[Prediction]]


def identity(score: float) -> float:
    """The link of a score that is itself about linear in the logit of accuracy."""
    return score


@dataclass(frozen=True)
class Predictor:
    """A named method: `predictor(trajectories)` gives one `Prediction` per trajectory.

    Attributes:
        name: the registry's name.
        predict: trajectories of the pool -> predictions in the same order.
        description: one line for people.
        scores_only: `Prediction.mean` is a score (higher is better) instead of an accuracy.
        min_epochs: epochs of training (epoch 0 does not count) that the method needs.
        strength: the beta_eff that the method reads; None: it reads none.
        link: for scores, an increasing map to a scale on which the logit of accuracy is about
            linear (`ncap_jax.predictor.calibration`).
    """

    name: str
    predict: PoolFunction
    description: str
    scores_only: bool = False
    min_epochs: int = 1
    strength: Strength | None = None
    link: Callable[[float], float] = identity

    def __call__(
        self, trajectories: Sequence[Trajectory], epochs: int | None = None
    ) -> list[Prediction]:
        """Predictions from the first `epochs` epochs of each trajectory (None: from all)."""
        pool = [truncate(t, epochs) for t in trajectories]
        predictions = self.predict(pool)
        return [
            too_short(t, self.min_epochs) if t.epochs < self.min_epochs else p
            for t, p in zip(pool, predictions, strict=True)
        ]

    def check_epochs(self, epochs: int) -> None:
        """Raise if a run of `epochs` epochs is too short for the method.

        Raises:
            ConfigError: `epochs` < `min_epochs`.
        """
        if epochs < self.min_epochs:
            raise errors.ConfigError(
                f"predictor {self.name!r} needs at least {self.min_epochs} epochs, got {epochs}",
                f"Use epochs={self.min_epochs} or more, or predictor='last_validation_loss'",
            )


def truncate(trajectory: Trajectory, epochs: int | None) -> Trajectory:
    """The trajectory as it stood after `epochs` epochs: epoch 0 and the first `epochs`."""
    if epochs is None or trajectory.epochs <= epochs:
        return trajectory
    return dataclasses.replace(trajectory, records=trajectory.records[: epochs + 1])


def per_model(function: Callable[[Trajectory], Prediction]) -> PoolFunction:
    """Turn a method that looks at one trajectory at a time into one that takes the pool."""

    def predict(trajectories: Sequence[Trajectory]) -> list[Prediction]:
        return [function(trajectory) for trajectory in trajectories]

    return predict


def by_length(
    score: Callable[[Sequence[Trajectory], int], list[Prediction]],
) -> PoolFunction:
    """Compare runs with those of equal length only: budgets make them unequal."""

    def predict(pool: Sequence[Trajectory]) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        for epochs in {t.epochs for t in pool}:
            members = [i for i, t in enumerate(pool) if t.epochs == epochs]
            found |= zip(members, score([pool[i] for i in members], epochs), strict=True)
        return [found[i] for i in range(len(pool))]

    return predict


def trained_series(trajectory: Trajectory, name: str) -> np.ndarray:
    """One field of the records after epoch 0: (epochs,) float64; may hold NaN or infinity."""
    return trajectory.series(name)[1:]


def no_prediction(reason: str) -> Prediction:
    """The flagged NaN with which a method says that it has no answer."""
    return Prediction(mean=float("nan"), std=float("nan"), flag=reason)


def too_short(trajectory: Trajectory, needed: int) -> Prediction:
    """The answer to a trajectory with fewer epochs than the method needs."""
    return no_prediction(f"{trajectory.epochs} epoch(s) recorded, {needed} needed")


def accuracy_flag(mean: float, seen: np.ndarray) -> str:
    """Why a predicted accuracy is implausible; empty if it is plausible.

    Args:
        mean: the predicted accuracy.
        seen: finite accuracies the prediction was made from.
    """
    if not np.isfinite(mean):
        return "the prediction is not finite"
    if not 0.0 <= mean <= 1.0:
        return "the predicted accuracy lies outside [0, 1]"
    low, high = float(np.min(seen)), float(np.max(seen))
    # Beyond the accuracies seen by more than they span: extrapolation, not prediction. The floor
    # keeps a flat curve from being flagged for a rounding error.
    reach = max(high - low, 0.05)
    if mean < low - reach or mean > high + reach:
        return "the predicted accuracy is far outside the accuracies seen"
    return ""
