"""LEEP: log expected empirical prediction, from the source classifier's probabilities.

With θ(x)_z the probability that the pretrained model's own classifier gives source class z:

    P(y, z) = (1/n) Σ_{i: y_i = y} θ(x_i)_z,   P(y | z) = P(y, z) / Σ_y P(y, z)             (P1)
    LEEP = (1/n) Σ_i log Σ_z P(y_i | z) θ(x_i)_z                                            (P2)

Higher is better, at most 0.

Source: Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of Learned
Representations", ICML 2020.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.predictor.features import Score, check_probabilities, evaluate


def leep(source_probabilities: np.ndarray, labels: np.ndarray) -> Score:
    """LEEP of a source classifier for labels; higher is better.

    Args:
        source_probabilities: (n, Z) float32 or float64, rows sum to 1, or (m, n, Z) for m models.
        labels: (n,) integers; only classes that occur count.

    Returns:
        A float in nats, at most 0, or (m,) for a batch.

    Raises:
        DataError: wrong shapes, rows that are not probability distributions, or fewer than two
            classes.
    """
    return evaluate(_leep, check_probabilities(source_probabilities, labels))


@jax.jit
def _leep(probabilities: jax.Array, one_hot: jax.Array) -> jax.Array:
    def one(theta: jax.Array) -> jax.Array:
        joint = one_hot.T @ theta / theta.shape[0]  # (P1): (K, Z)
        marginal = jnp.sum(joint, axis=0)
        # A source class that is never predicted has P(z) = 0: nothing is divided by it.
        conditional = jnp.where(marginal > 0, joint / jnp.where(marginal > 0, marginal, 1.0), 0.0)
        expected = jnp.sum((one_hot @ conditional) * theta, axis=1)
        return jnp.mean(jnp.log(expected))  # (P2)

    return jax.lax.map(one, probabilities)
