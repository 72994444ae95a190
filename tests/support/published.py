"""Random weights of a network of the zoo, under its publisher's names and in its layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional
from ncap_jax.zoo.weights import keymap, store

# Like the parity with Keras: docs/numerics.md.
TOLERANCE = 1e-4


class Weights:
    """Weights drawn by name as an oracle asks for them: what a publisher's file would hold.

    Attributes:
        arrays: published name -> array in the publisher's layout.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def draw(self, name: str, shape: tuple[int, ...], *, fan_in: int = 0) -> np.ndarray:
        """A weight of its own for every name: about 1 for scales and variances, else about 0.

        Args:
            name: published.
            shape: in the publisher's layout.
            fan_in: of a kernel, whose entries are scaled by its root; 0: no kernel.
        """
        if name not in self.arrays:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            values = rng.normal(size=shape)
            if fan_in:
                values *= np.sqrt(2 / fan_in)
            elif name.endswith(("var", "weight", "gamma")):
                values = 1 + 0.2 * np.abs(values)
            else:
                values *= 0.2
            self.arrays[name] = values.astype(np.float32)
        return self.arrays[name]


def filled(spec: ModelSpec, build: Callable[..., nnx.Module], weights: Weights) -> nnx.Module:
    """A network with drawn weights, in inference mode; nothing left over, nothing unfilled."""
    module = functional.build_to_fill(build, seed=0)
    convention = spec.layout.convention
    assert convention is not None
    renamed = keymap.rename(module, weights.arrays, convention, spec.layout.classifier)
    store.assign(module, renamed, "the drawn weights")
    module.eval()
    return module


def features(module: nnx.Module, x: np.ndarray) -> np.ndarray:
    """The network's features of a batch, in one cheaply compiled program."""
    definition, params, state = functional.split(module)

    def run(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return functional.apply(definition, params, state, x, train=False)[0]

    options = {"xla_backend_optimization_level": 0}
    return np.asarray(jax.jit(run, compiler_options=options)(params, state, x))


def check(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to float32's rounding, relative to the largest value.

    Raises:
        AssertionError: it is not.
    """
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3  # no comparison of zeros
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE  # NaN fails too


def abstract(build: Callable[..., nnx.Module], *arguments: Any) -> Any:
    """A module of shapes alone."""
    return functional.build_abstractly(partial(build, *arguments))
