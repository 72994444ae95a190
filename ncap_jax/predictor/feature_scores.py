"""What the features of an untouched model say of it: LogME, a linear probe and nearest neighbours.

The first two need every class twice: classes with a single sample are left out. Columns of zeros
change no score, so features are padded to a power of two: one compiled program serves models of
different widths.
"""

from __future__ import annotations

import numpy as np

from ncap_jax import errors
from ncap_jax.predictor.linear_probe import linear_probe
from ncap_jax.predictor.logme import logme
from ncap_jax.predictor.nearest_neighbours import nearest_neighbours

NARROWEST = 64


def feature_scores(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores by name, the higher the better.

    Args:
        features: (n, d) float32 or float64.
        labels: (n,) integers.

    Raises:
        DataError: features that are not finite, or fewer than two classes with two samples.
    """
    labels = np.asarray(labels)
    often = np.isin(labels, np.flatnonzero(np.bincount(labels) >= 2))
    if np.unique(labels[often]).size < 2:
        raise errors.DataError(
            "fewer than two classes have two samples", "Give more images, or leave features out"
        )
    x, y = padded(np.asarray(features)[often]), labels[often]
    scores = {
        "logme": logme(x, y),
        "linear_probe": linear_probe(x, y),
        "nearest_neighbours": nearest_neighbours(x, y),
    }
    return {name: float(score) for name, score in scores.items()}


def padded(features: np.ndarray) -> np.ndarray:
    """Features with columns of zeros up to the next power of two, at least `NARROWEST`."""
    width = max(NARROWEST, 1 << (features.shape[1] - 1).bit_length())
    return np.pad(features, ((0, 0), (0, width - features.shape[1])))
