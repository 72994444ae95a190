"""LogME: log maximum evidence of a Bayesian linear model from features to labels.

For each class the one-hot column y (n,) is regressed on the features F (n, d):

    w ~ N(0, I/α),   y = F w + ε,   ε ~ N(0, I/β)
    L(α, β) = n/2 log β + d/2 log α − n/2 log 2π − β/2 ‖F m − y‖² − α/2 ‖m‖² − 1/2 log|A|    (L1)
    A = α I + β FᵀF,   m = β A⁻¹ Fᵀ y

and maximised by MacKay's fixed point

    γ = Σ_i β σ_i / (α + β σ_i),   α ← γ / ‖m‖²,   β ← (n − γ) / ‖F m − y‖²                  (L2)

with σ_i the eigenvalues of FᵀF. LogME is the mean over classes of max L / n; higher is better.

Here one symmetric eigendecomposition of the smaller Gram matrix serves all classes. (L2) then runs
for all of them at once on vectors of length min(n, d), until it converges. With
V σ Vᵀ = FᵀF and q = (Vᵀ Fᵀ y)², t = α/β:

    ‖m‖² = Σ q / (σ + t)²,   ‖F m − y‖² = ‖y‖² − Σ q/σ + t² Σ q / (σ (σ + t)²)               (L3)

The eigenvalues of FᵀF that are zero, d − rank of them, appear in log|A| and in d/2 log α and cancel
there. Dropped from only one of the two, they would make the score wrong for n < d.

Source: You, Liu, Wang, Long, "LogME: Practical Assessment of Pre-trained Models for Transfer
Learning", ICML 2021; You et al., JMLR 23, 2022 (the fixed point on the singular values).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.predictor.features import Score, check, evaluate, spectrum

# Relative change of α/β at which the fixed point has converged. The evidence is flat at its
# maximum, so its own error is of second order.
_TOLERANCE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-10}
_MAX_ITERATIONS = 1000


def logme(features: np.ndarray, labels: np.ndarray) -> Score:
    """LogME of features for labels; higher is better.

    Args:
        features: (n, d) float32 or float64, or (m, n, d) for m models at once.
        labels: (n,) integers; only classes that occur count.

    Returns:
        A float, or (m,) for a batch. Constant and all-zero features have a finite score.

    Raises:
        DataError: wrong shapes, non-finite features, or fewer than two classes.
    """
    return evaluate(_logme, check(features, labels))


@jax.jit
def _logme(features: jax.Array, one_hot: jax.Array) -> jax.Array:
    return jax.lax.map(lambda f: jnp.mean(_evidences(f, one_hot)), features)


class _Spectrum(NamedTuple):
    """What (L1)-(L3) need of one model and all its classes; n is a Python number.

    Attributes:
        sigma: (k, 1) eigenvalues of FᵀF.
        energy: (k, K) energy of the targets along the singular directions, q/σ of (L3).
        outside: (K,) what no weight explains, ‖y‖² − Σ q/σ of (L3).
        n: number of samples.
    """

    sigma: jax.Array
    energy: jax.Array
    outside: jax.Array
    n: int

    def moments(self, t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """γ of (L2), ‖m‖² and ‖F m − y‖² of (L3) at t = α/β, (K,) each."""
        gamma = jnp.sum(self.sigma / (self.sigma + t), axis=0)  # (L2)
        norm = jnp.sum(self.energy * self.sigma / (self.sigma + t) ** 2, axis=0)  # (L3)
        within = jnp.sum(self.energy * (t / (self.sigma + t)) ** 2, axis=0)  # (L3)
        return gamma, norm, self.outside + within


def _evidences(features: jax.Array, targets: jax.Array) -> jax.Array:
    """Maximum evidence per sample of every class, (K,); equations (L1)-(L3)."""
    sigma, energy = spectrum(features, targets)
    total = jnp.sum(targets**2, axis=0)
    # Rounding must not make what is left over negative or zero.
    floor = jnp.finfo(features.dtype).eps * total
    outside = jnp.maximum(total - jnp.sum(energy, axis=0), floor)
    model = _Spectrum(sigma[:, None], energy, outside, features.shape[0])
    t = _fixed_point(model)
    gamma, norm, residual = model.moments(t)
    beta = (model.n - gamma) / residual  # (L2)
    alpha = t * beta
    # (L1), where d/2 log α − 1/2 log|A| = −1/2 Σ log(1 + σ/t): zero eigenvalues cancel.
    evidence = (
        model.n / 2 * jnp.log(beta)
        - model.n / 2 * jnp.log(2 * jnp.pi)
        - beta / 2 * residual
        - alpha / 2 * norm
        - jnp.sum(jnp.log1p(model.sigma / t), axis=0) / 2
    )
    return evidence / model.n


def _fixed_point(model: _Spectrum) -> jax.Array:
    """T = α/β at the fixed point of (L2), (K,)."""
    dtype = model.sigma.dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    # Features that explain nothing drive α/β to infinity, a perfect fit drives it to zero; the
    # evidence has reached its limit to rounding before these bounds.
    low, high = eps, (jnp.max(model.sigma) + 1.0) / eps

    def step(state: tuple[jax.Array, jax.Array, int]) -> tuple[jax.Array, jax.Array, int]:
        t, _, iteration = state
        gamma, norm, residual = model.moments(t)
        new = gamma / jnp.maximum(norm, tiny) * residual / (model.n - gamma)  # (L2), α/β
        new = jnp.clip(new, low, high)
        return new, jnp.max(jnp.abs(new - t) / t), iteration + 1

    def running(state: tuple[jax.Array, jax.Array, int]) -> jax.Array:
        _, change, iteration = state
        return (change > _TOLERANCE[np.dtype(dtype)]) & (iteration < _MAX_ITERATIONS)

    start = (jnp.ones_like(model.outside), jnp.asarray(jnp.inf, dtype), 0)
    t, _, _ = jax.lax.while_loop(running, step, start)
    return t
