"""What the transferability scores share: checked inputs, present classes, precision.

A score takes features (n, d) of the target images under a frozen pretrained model, or a batch
(m, n, d) of m models with equal width, and labels (n,); it returns a float, or (m,) NumPy
floats. It computes in the precision of the features: float64 in, float64 throughout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import errors

Score = float | np.ndarray


class Checked(NamedTuple):
    """Features as (m, n, d) float32 or float64, one-hot labels (n, K) of the classes present.

    `single` says that the caller gave one model, not a batch.
    """

    features: np.ndarray
    one_hot: np.ndarray
    labels: np.ndarray
    single: bool


def check(features: np.ndarray, labels: np.ndarray) -> Checked:
    """Refuse inputs for which no score is defined; renumber labels to the classes that occur.

    Classes without a sample are left out: a gap in the labels would count as a class that is
    predicted perfectly, and raise a score.

    Args:
        features: (n, d) or (m, n, d), real; integers and float16 become float32.
        labels: (n,) integers.

    Raises:
        DataError: wrong shapes, non-finite features, labels that are not integers, or fewer than
            two classes.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim not in (2, 3) or 0 in features.shape:
        raise errors.DataError(
            f"features have shape {features.shape}", "Give (n, d), or (m, n, d) for m models"
        )
    if labels.shape != (features.shape[-2],):
        raise errors.DataError(
            f"labels have shape {labels.shape} for {features.shape[-2]} samples",
            "Give one integer label per sample",
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise errors.DataError(f"labels have dtype {labels.dtype}", "Give integer labels")
    if features.dtype != np.float64:
        features = features.astype(np.float32)
    if not np.all(np.isfinite(features)):
        raise errors.DataError(
            "features contain NaN or infinity", "Check the model's weights and preprocessing"
        )
    classes, labels = np.unique(labels, return_inverse=True)
    if classes.size < 2:
        raise errors.DataError(
            "labels contain fewer than two classes", "Give samples of at least two classes"
        )
    one_hot = np.eye(classes.size, dtype=features.dtype)[labels]
    single = features.ndim == 2
    return Checked(features[None] if single else features, one_hot, labels, single)


def check_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Checked:
    """As `check`, for the source classifier's probabilities (n, Z) or (m, n, Z).

    Raises:
        DataError: as `check`, or a row is not a probability distribution.
    """
    checked = check(probabilities, labels)
    rows = checked.features
    # Softmax in float32 over a thousand classes sums to one within about 1e-6.
    if np.any(rows < 0) or not np.allclose(rows.sum(axis=-1), 1.0, atol=1e-3):
        raise errors.DataError(
            "rows of source_probabilities are not probability distributions",
            "Give softmax outputs, not logits",
        )
    return checked


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """A context in which JAX computes in that dtype; process-wide settings do not change."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def evaluate(kernel: Callable[..., jax.Array], checked: Checked, *args: object) -> Score:
    """Run a jitted batched kernel `(features (m, n, d), one_hot, *args) -> (m,)`."""
    with precision(checked.features.dtype), jax.default_matmul_precision("highest"):
        scores = np.asarray(kernel(checked.features, checked.one_hot, *args))
    return float(scores[0]) if checked.single else scores


def spectrum(features: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Singular directions of features F = U Σ Vᵀ and the energy of targets along them.

    By a symmetric eigendecomposition of the smaller Gram matrix, k = min(n, d).

    Args:
        features: (n, d).
        targets: (n, K).

    Returns:
        σ = diag(Σ²) (k,) and (uᵀ y)² (k, K); both are 0 beyond the numerical rank.
    """
    n, d = features.shape
    if n > d:
        sigma, vectors = jnp.linalg.eigh(features.T @ features)
        projected = vectors.T @ (features.T @ targets)  # Σ Uᵀ y
    else:
        sigma, vectors = jnp.linalg.eigh(features @ features.T)
        projected = vectors.T @ targets  # Uᵀ y
    inside = sigma > jnp.finfo(sigma.dtype).eps * max(n, d) * jnp.max(sigma)
    divisor = jnp.where(inside, sigma, 1.0) if n > d else jnp.ones_like(sigma)
    energy = jnp.where(inside[:, None], projected**2 / divisor[:, None], 0.0)
    return jnp.where(inside, sigma, 0.0), energy
