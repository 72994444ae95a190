"""Temperature scaling: probabilities that mean what they say (Guo et al. 2017).

Fine-tuned networks are usually too sure of themselves. One number T > 0, fitted on the validation
part, corrects that without changing any answer:

    p_i = softmax(z_i / T)                                                                  (K1)
    T = argmin Σ_i −log p_i(y_i) + (log T)² / (2 s²),   s = log 2                           (K2)

The second term is a prior: without it, a model that classifies all of a small validation part
right would get T = 0 and be certain of everything from then on. After 20 validation images the log
loss of new images is more than half a nat above the best possible without it, and less than a
twentieth with it; after 200 the two are equal (tests/winner/calibration_test.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.winner.metrics import ClassificationMetrics, classification_metrics

PRIOR_SPREAD = math.log(2)
# Temperatures that are tried lie between the inverse of this and this.
LIMIT = 100.0


def fit_temperature(logits: Any, labels: Any) -> float:
    """The temperature (K2) of a model.

    Args:
        logits: (n, K) finite floats, of images that the model was not trained on.
        labels: (n,) integers 0..K-1.

    Raises:
        DataError: no images, other shapes, or logits that are not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, truth = _finite(logits), np.asarray(labels)
    if truth.shape != scores.shape[:1] or truth.dtype.kind not in "iu":
        raise errors.DataError(
            f"there are logits of {len(scores)} images but labels of shape {truth.shape}",
            "Give one whole number for each image",
        )
    margins = scores - scores[np.arange(len(truth)), truth][:, None]

    def loss(log_temperature: float) -> float:
        nats = logsumexp(margins / math.exp(log_temperature), axis=1).sum()
        return float(nats + log_temperature**2 / (2 * PRIOR_SPREAD**2))

    bound = math.log(LIMIT)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)


def scaled_probabilities(logits: Any, temperature: float | None = None) -> np.ndarray:
    """The probabilities (K1), (n, K) float32.

    Args:
        logits: (n, K) finite floats.
        temperature: positive; None: 1.

    Raises:
        DataError: another shape, no images, or logits that are not finite.
    """
    from scipy.special import softmax

    return softmax(_finite(logits) / (temperature or 1.0), axis=1).astype(np.float32)


def calibrated_metrics(
    logits: Any, labels: Any, class_names: Sequence[str], temperature: float | None
) -> ClassificationMetrics:
    """The figures of a model's logits, with the calibration error before and after scaling.

    Args:
        logits: (n, K) finite floats.
        labels: (n,) integers 0..K-1.
        class_names: K names in label order.
        temperature: from `fit_temperature`; None: nothing is scaled.

    Raises:
        DataError: see `scaled_probabilities` and `classification_metrics`.
    """
    return classification_metrics(
        scaled_probabilities(logits, temperature),
        labels,
        class_names,
        uncalibrated=None if temperature is None else scaled_probabilities(logits),
    )


def _finite(logits: Any) -> np.ndarray:
    """(n, K) float64."""
    scores = np.asarray(logits, np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise errors.DataError(
            f"logits have shape {scores.shape}",
            "Give (n, K): one row for each image, one column for each class",
        )
    if not np.isfinite(scores).all():
        raise errors.DataError(
            "some logits are NaN or infinite", "Take another model: this one has diverged"
        )
    return scores
