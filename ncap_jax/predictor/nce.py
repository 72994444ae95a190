"""NCE: negative conditional entropy of the target labels given the source classifier's labels.

With z_i the source class that the pretrained model's own classifier predicts for sample i:

    NCE = −H(Y | Z) = Σ_z P(z) Σ_y P(y | z) log P(y | z)                                    (N1)

Higher is better, at most 0.

Source: Tran, Nguyen, Hassner, "Transferability and Hardness of Supervised Classification
Tasks", ICCV 2019.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from ncap_jax.predictor.features import Score, check_probabilities, evaluate


def nce(source_probabilities: np.ndarray, labels: np.ndarray) -> Score:
    """NCE of a source classifier for labels; higher is better.

    Args:
        source_probabilities: (n, Z) float32 or float64, rows sum to 1, or (m, n, Z) for m
            models; only the most probable class of a row counts.
        labels: (n,) integers; only classes that occur count.

    Returns:
        A float in nats, at most 0, or (m,) for a batch.

    Raises:
        DataError: wrong shapes, rows that are not probability distributions, or fewer than two
            classes.
    """
    return evaluate(_nce, check_probabilities(source_probabilities, labels))


@jax.jit
def _nce(probabilities: jax.Array, one_hot: jax.Array) -> jax.Array:
    def one(theta: jax.Array) -> jax.Array:
        source = jax.nn.one_hot(jnp.argmax(theta, axis=1), theta.shape[1], dtype=theta.dtype)
        joint = one_hot.T @ source / theta.shape[0]  # P(y, z)
        marginal = jnp.sum(joint, axis=0)
        return jnp.sum(xlogy(joint, joint)) - jnp.sum(xlogy(marginal, marginal))  # (N1)

    return jax.lax.map(one, probabilities)
