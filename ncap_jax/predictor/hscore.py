"""H-score: how much of the features' covariance the classes explain.

    H = tr( cov(f)⁺ cov(E[f | y]) )                                                         (H1)

with population covariances; higher is better, at most K − 1. With Z the centred features,
Z = U Σ Vᵀ, and 1_c the indicator of class c with n_c samples, this is

    H = Σ_c ‖Uᵀ 1_c‖² / n_c                                                                 (H2)

so one eigendecomposition of the smaller Gram matrix gives it, without a d × d inverse.

A known limit of the definition: with n ≤ d samples in general position every class is explained
perfectly and H is K − 1 for every model.

Source: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer
Learning", ICIP 2019.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.predictor.features import Score, check, evaluate, spectrum


def hscore(features: np.ndarray, labels: np.ndarray) -> Score:
    """H-score of features for labels; higher is better.

    Args:
        features: (n, d) float32 or float64, or (m, n, d) for m models at once.
        labels: (n,) integers; only classes that occur count.

    Returns:
        A float in [0, K − 1], or (m,) for a batch; 0 for constant features.

    Raises:
        DataError: wrong shapes, non-finite features, or fewer than two classes.
    """
    return evaluate(_hscore, check(features, labels))


@jax.jit
def _hscore(features: jax.Array, one_hot: jax.Array) -> jax.Array:
    def one(f: jax.Array) -> jax.Array:
        _, energy = spectrum(f - jnp.mean(f, axis=0), one_hot)
        return jnp.sum(energy / jnp.sum(one_hot, axis=0))  # (H2)

    return jax.lax.map(one, features)
