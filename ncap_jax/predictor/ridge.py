"""Bayesian ridge on beta_eff, per model: the value at beta_eff = 0 is the predicted accuracy.

The model (method.md, "Prediction"), over the epochs t = 1..n of one run:

    accuracy_t = θ0 + θ1 x_t + ε_t,   ε_t ~ N(0, 1/α),   θ1 ~ N(0, 1/λ),   θ0 flat        (R1)
    α ~ Gamma(1e-6, 1e-6),   λ ~ Gamma(1e-6, 1e-6)   set to their evidence maximum        (R2)

with x = beta_eff (`published`) or x = beta_eff / max|beta_eff| (`scaled`). Training ends at
beta_eff = 0, hence the prediction I* = θ0. Given α and λ the posterior of θ0 is normal,

    mean = ȳ − m x̄,   variance = 1/(n α) + x̄² s²                                            (R3)

with m, s² the posterior mean and variance of the slope: scikit-learn fits the slope on centred
data, which is exactly (R1) with a flat prior on θ0, for there the mean of the line at x̄ and
its slope are independent. `BayesianRidge.predict(return_std=True)` is *not* the root of this
variance: it leaves out the intercept's share 1/(n α) and adds the noise of one observation, 1/α.

Source: Jiang et al. (2022), arXiv 2201.04194; evidence maximisation: MacKay (1992), "Bayesian
interpolation"; implementation: scikit-learn.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from ncap_jax.predictor.base import (
    PoolFunction,
    accuracy_flag,
    no_prediction,
    per_model,
    trained_series,
)
from ncap_jax.types import Prediction, Strength, Trajectory

# The published Gamma priors. They are scikit-learn's defaults too; stated here, they cannot change.
_PRIOR = 1e-6
# The scaled mode iterates to the fixed point of the evidence; scikit-learn's default tolerance
# of 1e-3 on the slope stops well before it when the slope itself is of order 0.1.
_SCALED_TOLERANCE = 1e-8
_SCALED_ITERATIONS = 3000


class RidgeFit(NamedTuple):
    """A fitted line, in the units of the given x.

    Attributes:
        intercept: posterior mean of θ0.
        intercept_std: posterior standard deviation of θ0, equation (R3).
        slope: posterior mean of θ1.
        slope_std: posterior standard deviation of θ1.
        noise_std: standard deviation of one observation about the line, α^(-1/2).
        center: x̄, where the line is known best.
        n: number of points.
    """

    intercept: float
    intercept_std: float
    slope: float
    slope_std: float
    noise_std: float
    center: float
    n: int

    def line_std(self, x: np.ndarray) -> np.ndarray:
        """Posterior standard deviation of the line at x (no observation noise)."""
        at_center = self.noise_std**2 / self.n
        return np.sqrt(at_center + (x - self.center) ** 2 * self.slope_std**2)


def fit_line(x: np.ndarray, y: np.ndarray, *, scaled: bool) -> RidgeFit:
    """Fit (R1)-(R2) by scikit-learn's BayesianRidge.

    Args:
        x: (n,) float64, finite: beta_eff.
        y: (n,) float64, finite: accuracy.
        scaled: divide x by max|x| first and iterate to convergence; the line comes back in the
            units of x. False: as published, with scikit-learn's defaults.

    Returns:
        The line; its slope is 0 where all x are zero.
    """
    # Imported here: scikit-learn takes longer to import than the rest of the package.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import BayesianRidge

    scale = float(np.max(np.abs(x))) if scaled else 1.0
    scale = scale if scale > 0 else 1.0
    options: dict[str, Any] = (
        {"tol": _SCALED_TOLERANCE, "max_iter": _SCALED_ITERATIONS} if scaled else {}
    )
    ridge = BayesianRidge(
        alpha_1=_PRIOR, alpha_2=_PRIOR, lambda_1=_PRIOR, lambda_2=_PRIOR, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Zero stays zero: dividing keeps the origin, standardising would not.
        ridge.fit((x / scale)[:, None], y)
    slope_variance = float(ridge.sigma_[0, 0]) / scale**2
    noise_variance = 1.0 / float(ridge.alpha_)
    center = float(np.mean(x))
    # (R3)
    intercept_variance = noise_variance / x.size + center**2 * slope_variance
    return RidgeFit(
        intercept=float(ridge.intercept_),
        intercept_std=math.sqrt(intercept_variance),
        slope=float(ridge.coef_[0]) / scale,
        slope_std=math.sqrt(slope_variance),
        noise_std=math.sqrt(noise_variance),
        center=center,
        n=int(x.size),
    )


def points(trajectory: Trajectory, strength: Strength) -> tuple[np.ndarray, np.ndarray, int]:
    """beta_eff and accuracy of the epochs after epoch 0 where both are finite.

    Returns:
        (n,) beta_eff, (n,) accuracy, and the number of measured epochs left out because a value is
        not finite.
    """
    beta = trajectory.beta_eff(strength)[1:]
    accuracy = trained_series(trajectory, "validation_accuracy")[: beta.size]
    keep = np.isfinite(beta) & np.isfinite(accuracy)
    measured = sum(bool(record.beta_eff.get(strength)) for record in trajectory.records[1:])
    return beta[keep], accuracy[keep], measured - int(np.sum(keep))


def ill_conditioned(trajectory: Trajectory, strength: Strength) -> bool:
    """Whether some epoch after epoch 0 has a beta_eff that its own status calls untrustworthy."""
    statuses = (record.beta_eff_status.get(strength, ()) for record in trajectory.records[1:])
    return any("ill_conditioned" in status for status in statuses)


def ridge_prediction(trajectory: Trajectory, strength: Strength, *, scaled: bool) -> Prediction:
    """The value at beta_eff = 0 of one run.

    Args:
        trajectory: one run; epoch 0 (before training) does not count.
        strength: which beta_eff.
        scaled: see `fit_line`.

    Returns:
        As published: posterior mean and standard deviation of θ0. Scaled: the same mean, and
        the standard deviation of what will be *measured* at convergence, which includes the
        noise of one more observation, (1/α + var θ0)^(1/2). Flagged if the value lies outside
        [0, 1] or far outside the accuracies seen, if there are only two points, if beta_eff does
        not vary or is ill-conditioned, or if epochs were left out.
    """
    beta, accuracy, dropped = points(trajectory, strength)
    if not beta.size + dropped:
        return no_prediction(f"no {strength} beta_eff recorded")
    if beta.size < 2:
        return no_prediction(f"{beta.size} epoch(s) with a finite beta_eff, 2 needed")
    fit = fit_line(beta, accuracy, scaled=scaled)
    std = math.hypot(fit.intercept_std, fit.noise_std) if scaled else fit.intercept_std
    flags = [accuracy_flag(fit.intercept, accuracy)]
    if beta.size == 2:
        flags.append("a line through 2 points: the standard deviation says little")
    if np.ptp(beta) == 0:
        flags.append("beta_eff does not vary: this is the mean accuracy")
    if dropped:
        flags.append(f"{dropped} epoch(s) with non-finite values left out")
    if ill_conditioned(trajectory, strength):
        flags.append("beta_eff is ill-conditioned in some epochs")
    return Prediction(fit.intercept, std, "; ".join(flag for flag in flags if flag))


def ridge(strength: Strength, *, scaled: bool) -> PoolFunction:
    """The ridge as a method of the pool; each model is fitted by itself."""

    def predict(trajectory: Trajectory) -> Prediction:
        return ridge_prediction(trajectory, strength, scaled=scaled)

    return per_model(predict)
