"""Random small networks with data, in float64, for the kernels' tests."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np


class Net(NamedTuple):
    """An MLP with folded batch norm, and a batch for it."""

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    scales: list[np.ndarray]
    shifts: list[np.ndarray]
    inputs: np.ndarray
    labels: np.ndarray

    @property
    def plain(self):
        return self.kernels, self.biases, self.inputs, self.labels


def random_net(seed: int, widths, batch: int, bias: float = 0.3, plain: bool = True) -> Net:
    """Gaussian weights; without `plain` the scales are of both signs."""
    rng = np.random.default_rng(seed)
    kernels = [rng.normal(size=(m, n)) for m, n in itertools.pairwise(widths)]
    biases = [bias * rng.normal(size=n) for n in widths[1:]]
    hidden = widths[1:-1]
    scales = [np.ones(n) if plain else rng.normal(size=n) for n in hidden]
    shifts = [np.zeros(n) if plain else 0.5 * rng.normal(size=n) for n in hidden]
    inputs = rng.normal(size=(batch, widths[0]))
    labels = rng.integers(0, widths[-1], size=batch).astype(np.int32)
    return Net(kernels, biases, scales, shifts, inputs, labels)
