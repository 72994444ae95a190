"""TransRate: mutual information of features and labels, by coding rates.

    TrR = R(Z) − (1/K) Σ_c R(Z_c),   R(Z) = 1/2 log det( I + Zᵀ Z / (n ε) )                 (T1)

with Z the centred features, Z_c the rows of class c (n_c of them, divided by n_c ε) and
ε = 1e-4; higher is better.

Source: Huang et al., "Frustratingly Easy Transferability Estimation", ICML 2022, with the
weights 1/K of the published algorithm.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.predictor.features import Score, check, evaluate

EPSILON = 1e-4


def transrate(features: np.ndarray, labels: np.ndarray, epsilon: float = EPSILON) -> Score:
    """TransRate of features for labels; higher is better. It is not scale-invariant.

    Args:
        features: (n, d) float32 or float64, or (m, n, d) for m models at once; the arithmetic is
            float64.
        labels: (n,) integers; only classes that occur count.
        epsilon: the distortion ε of (T1), positive.

    Returns:
        A float in nats, or (m,) for a batch; 0 for constant features.

    Raises:
        DataError: wrong shapes, non-finite features, or fewer than two classes.
    """
    checked = check(features, labels)
    # The determinant spans many orders of magnitude: with features in the hundreds, some of them
    # dead, the matrix has no Cholesky factor in float32.
    double = (checked.features.astype(np.float64), checked.one_hot.astype(np.float64))
    checked = checked._replace(features=double[0], one_hot=double[1])
    return evaluate(_transrate, checked, *_members(checked.labels), epsilon)


def _members(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample indices of every class (K, largest n_c), and which of them are real.

    Classes differ in size; padding makes one shape of them, and rows of zeros change no Gram
    matrix's determinant.
    """
    groups = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    width = max(map(len, groups))
    indices = np.stack([np.pad(g, (0, width - len(g))) for g in groups])
    real = np.stack([np.arange(width) < len(g) for g in groups])
    return indices, real


def _rate(z: jax.Array, count: jax.Array, epsilon: jax.Array) -> jax.Array:
    """R(Z) of (T1), from the smaller of Zᵀ Z and Z Zᵀ: both have the same determinant."""
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T
    matrix = jnp.eye(gram.shape[0], dtype=z.dtype) + gram / (count * epsilon)
    # 1/2 log det = Σ log diag of the Cholesky factor.
    return jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))))


@jax.jit
def _transrate(
    features: jax.Array,
    one_hot: jax.Array,
    indices: jax.Array,
    real: jax.Array,
    epsilon: jax.Array,
) -> jax.Array:
    counts = jnp.sum(one_hot, axis=0)

    def one(f: jax.Array) -> jax.Array:
        z = f - jnp.mean(f, axis=0)

        def class_rate(group: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            index, keep, count = group
            return _rate(jnp.where(keep[:, None], z[index], 0.0), count, epsilon)

        within = jax.lax.map(class_rate, (indices, real, counts))
        return _rate(z, jnp.asarray(f.shape[0], f.dtype), epsilon) - jnp.mean(within)  # (T1)

    return jax.lax.map(one, features)
