"""Made-up inputs of the transferability scores, of any difficulty."""

from __future__ import annotations

import numpy as np


def make_task(
    needs: str,
    n: int = 120,
    width: int = 12,
    classes: int = 4,
    separation: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the kind a score needs, float64, and labels; more separation is easier."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, width)) + separation * rng.normal(size=(classes, width))[labels]
    if needs == "source_probabilities":
        x = np.exp(x - x.max(axis=1, keepdims=True))
        x /= x.sum(axis=1, keepdims=True)
    return x, labels
