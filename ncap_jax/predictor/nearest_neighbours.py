"""Nearest neighbours: the accuracy of k-NN on frozen features, each sample left out in turn.

With standardised features scaled to length 1, s_ij is the cosine of samples i and j. The k nearest
of the others vote for their classes,

    vote(i, c) = Σ_{j ∈ N_k(i), y_j = c} exp((s_ij − s_i,max) / τ),   k = 20, τ = 0.07      (N1)

and the score is the share of samples whose class has the most votes; of equal classes the first.
Nothing is fitted, so it says how far the classes are apart already, not how far a linear map can
separate them.

Source: Wu, Xiong, Yu & Lin, "Unsupervised feature learning via non-parametric instance
discrimination", 2018, whose τ it is; k = 20 as in Caron et al., "Emerging properties in
self-supervised vision transformers", 2021.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.predictor.features import Score, check, evaluate

NEIGHBOURS = 20
TEMPERATURE = 0.07


def nearest_neighbours(features: np.ndarray, labels: np.ndarray) -> Score:
    """Accuracy of k-NN with each sample left out (N1); higher is better.

    Args:
        features: (n, d) float32 or float64, or (m, n, d) for m models at once. Of fewer than 21
            samples all others vote.
        labels: (n,) integers; only classes that occur count.

    Returns:
        An accuracy in [0, 1], or (m,) for a batch.

    Raises:
        DataError: wrong shapes, non-finite features, or fewer than two classes.
    """
    return evaluate(_accuracies, check(features, labels))


@jax.jit
def _accuracies(features: jax.Array, one_hot: jax.Array) -> jax.Array:
    n = one_hot.shape[0]

    def one(f: jax.Array) -> jax.Array:
        spread = jnp.std(f, axis=0)
        x = (f - jnp.mean(f, axis=0)) / jnp.where(spread > 0, spread, 1.0)
        length = jnp.linalg.norm(x, axis=1, keepdims=True)
        x = x / jnp.where(length > 0, length, 1.0)
        cosines = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, x @ x.T)
        nearest, who = jax.lax.top_k(cosines, min(NEIGHBOURS, n - 1))
        weight = jnp.exp((nearest - nearest[:, :1]) / TEMPERATURE)
        votes = jnp.einsum("ik,ikc->ic", weight, one_hot[who])  # (N1)
        right = jnp.argmax(votes, axis=1) == jnp.argmax(one_hot, axis=1)
        return jnp.sum(right).astype(f.dtype) / n

    return jax.lax.map(one, features)
