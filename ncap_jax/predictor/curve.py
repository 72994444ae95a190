"""Learning-curve extrapolation: parametric families fitted to validation accuracy.

Three families with three parameters each, over epochs t = 1..n, limit c in (0, 1), a, k > 0:

    power        y(t) = c − a t^(−k)                                                        (E1)
    exponential  y(t) = c − a exp(−k t)                                                     (E2)
    log-power    y(t) = c / (1 + (a / t)^k)                                                 (E3)

A few epochs do not determine three parameters, so each has a wide normal prior on an
unconstrained scale (logit c, log a, log k) and the fit is the posterior mode, by SciPy's
`least_squares`. The noise is what the fit leaves over, at least `NOISE`: a curve that does not
follow the family (a slow start, say) is predicted with a larger standard deviation. The
prediction is y at epoch `HORIZON`; its variance comes from the Laplace approximation at the mode.
Families are averaged with weights proportional to their Laplace evidence.

Source: families of Domhan, Springenberg, Hutter, "Speeding up Automatic Hyperparameter
Optimization of Deep Neural Networks by Extrapolation of Learning Curves", IJCAI 2015; Laplace
evidence: MacKay (1992).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from ncap_jax.predictor.base import (
    PoolFunction,
    accuracy_flag,
    no_prediction,
    per_model,
    trained_series,
)
from ncap_jax.types import Prediction, Trajectory

# Standard deviation of one measured accuracy, at least: about that of a thousand images.
NOISE = 0.015
# Rounds of fitting with the noise that the round before left over.
_ROUNDS = 4
# "Convergence": the epoch whose accuracy is predicted.
HORIZON = 50.0

Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Family(NamedTuple):
    """A curve y(t; θ) on unconstrained θ, with a normal prior on θ (mean, standard deviation)."""

    curve: Curve
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _power(theta: np.ndarray, t: np.ndarray) -> np.ndarray:
    c, a, k = expit(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    return c - a * t**-k  # (E1)


def _exponential(theta: np.ndarray, t: np.ndarray) -> np.ndarray:
    c, a, k = expit(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    return c - a * np.exp(-k * t)  # (E2)


def _log_power(theta: np.ndarray, t: np.ndarray) -> np.ndarray:
    c, a, k = expit(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    return c / (1.0 + (a / t) ** k)  # (E3)


# Priors: limits between about 0.3 and 0.99; most of the rise within the first ten epochs.
FAMILIES: dict[str, Family] = {
    "power": Family(_power, (1.5, np.log(0.4), np.log(0.8)), (1.5, 1.0, 0.6)),
    "exponential": Family(_exponential, (1.5, np.log(0.5), np.log(0.4)), (1.5, 1.0, 0.8)),
    "log_power": Family(_log_power, (1.5, np.log(0.8), np.log(1.0)), (1.5, 1.0, 0.6)),
}


class CurveFit(NamedTuple):
    """y at the horizon with its standard deviation, and the log evidence of the family."""

    mean: float
    std: float
    log_evidence: float


def fit(family: Family, t: np.ndarray, y: np.ndarray) -> CurveFit:
    """Posterior mode and Laplace approximation of one family.

    Args:
        family: the curve and its prior.
        t: (n,) epochs, positive.
        y: (n,) accuracies, finite.
    """
    mean, std = np.array(family.mean), np.array(family.std)
    # The limit starts just above the best accuracy seen, the other parameters at their priors.
    theta = np.array([logit(np.clip(np.max(y) + 0.02, 0.02, 0.98)), *mean[1:]])
    # Wider than any plausible curve; keeps the exponentials finite during the search.
    bounds = mean - 6 * std, mean + 6 * std
    noise = NOISE
    for _ in range(_ROUNDS):

        def residuals(theta: np.ndarray, noise: float = noise) -> np.ndarray:
            return np.concatenate([(y - family.curve(theta, t)) / noise, (theta - mean) / std])

        result = least_squares(residuals, theta, bounds=bounds)
        theta, used = result.x, noise
        noise = max(NOISE, float(np.sqrt(np.mean((y - family.curve(theta, t)) ** 2))))
        if abs(noise - used) < 0.02 * used:
            break
    # The prior's rows make JᵀJ positive definite, however few the epochs.
    precision = result.jac.T @ result.jac
    value, gradient = _at_horizon(family.curve, theta)
    variance = float(gradient @ np.linalg.inv(precision) @ gradient) + used**2
    # Laplace: log posterior density at the mode, plus half the log determinant of the covariance.
    # Terms that all families share are left out.
    log_evidence = (
        -result.cost
        - y.size * np.log(used)
        - np.sum(np.log(std))
        - np.linalg.slogdet(precision)[1] / 2
    )
    return CurveFit(value, float(np.sqrt(variance)), float(log_evidence))


def _at_horizon(curve: Curve, theta: np.ndarray, step: float = 1e-5) -> tuple[float, np.ndarray]:
    """y(HORIZON; θ) and its gradient in θ, (3,), by central differences."""
    at = np.array([HORIZON])
    gradient = [
        (curve(theta + h, at)[0] - curve(theta - h, at)[0]) / (2 * step) for h in step * np.eye(3)
    ]
    return float(curve(theta, at)[0]), np.array(gradient)


@functools.lru_cache(maxsize=4096)
def _fitted(name: str, epochs: tuple[float, ...], accuracies: tuple[float, ...]) -> CurveFit:
    # Two methods of the registry fit the same curves of the same runs.
    return fit(FAMILIES[name], np.array(epochs), np.array(accuracies))


def extrapolation(families: Sequence[str]) -> PoolFunction:
    """Evidence-weighted extrapolation by these families, as a method of the pool."""

    def predict(trajectory: Trajectory) -> Prediction:
        accuracy = trained_series(trajectory, "validation_accuracy")
        keep = np.isfinite(accuracy)
        if keep.sum() < 2:
            return no_prediction(f"{keep.sum()} finite epoch(s), 2 needed")
        t = np.arange(1.0, accuracy.size + 1)[keep]
        seen = tuple(t.tolist()), tuple(accuracy[keep].tolist())
        fits = [_fitted(name, *seen) for name in families]
        evidence = np.array([f.log_evidence for f in fits])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        means, variances = np.array([f.mean for f in fits]), np.array([f.std for f in fits]) ** 2
        mean = float(weights @ means)
        # Variance of a mixture: within the families and between them.
        std = float(np.sqrt(weights @ (variances + (means - mean) ** 2)))
        dropped = "" if keep.all() else "some validation accuracies are not finite"
        flags = [accuracy_flag(mean, accuracy[keep]), dropped]
        return Prediction(mean, std, "; ".join(flag for flag in flags if flag))

    return per_model(predict)
