"""Channels last inside PyTorch's networks, whose images are (batch, channels, height, width).

The product's convolutions and norms take channels last, between a transposition there and one back
(`channels_last`). XLA cancels a pair that meets, but an activation or a sum between two
convolutions would keep both, and copy the images twice. So what treats every pixel alike is
computed between such a pair too, and in a chain of operators all of them cancel.

For other arrays of four axes, such as attention weights, nothing would cancel: only what an
operator on images gave is treated so (`Images`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]

# Names of the operators that treat every pixel alike, without what stands behind a dot.
PIXELWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "maximum", "minimum", "neg", "exp", "erf", "pow", "tanh"),
        *("relu", "silu", "gelu", "sigmoid", "hardtanh", "leaky_relu", "clamp", "clamp_min"),
    )
)


def channels_last(x: jax.Array) -> jax.Array:
    """(batch, channels, height, width) as (batch, height, width, channels)."""
    return jnp.transpose(x, (0, 2, 3, 1))


def channels_first(x: jax.Array) -> jax.Array:
    """(batch, height, width, channels) as (batch, channels, height, width)."""
    return jnp.transpose(x, (0, 3, 1, 2))


class Images:
    """The arrays of one trace, a `with` block, that operators on images gave."""

    def __init__(self) -> None:
        self._known: dict[int, jax.Array] = {}  # held, so that no other array has their identity

    def add(self, y: jax.Array) -> jax.Array:
        """The same array, known from now on."""
        self._known[id(y)] = y
        return y

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *error: object) -> None:
        """The trace is over: let go of all arrays."""
        self._known.clear()

    def giving(self, function: Function) -> Function:
        """An operator whose value is known to be images."""
        return lambda *args, **kwargs: self.add(function(*args, **kwargs))

    def pixelwise(self, function: Function) -> Function:
        """An operator that treats every pixel alike, computed channels last on images."""

        def operator(*args: Any, **kwargs: Any) -> Any:
            if not self._among(jax.tree.leaves((args, kwargs))):
                return function(*args, **kwargs)
            args, kwargs = jax.tree.map(_last, (args, kwargs))
            return self.add(channels_first(function(*args, **kwargs)))

        return operator

    def joined(self, function: Function) -> Function:
        """`torch.cat`, of images along their channels computed channels last."""

        def cat(tensors: Sequence[jax.Array], dim: int = 0) -> jax.Array:
            if dim not in (1, -3) or not self._among(tensors):
                return function(tensors, dim)
            return self.add(channels_first(jnp.concatenate(list(map(_last, tensors)), -1)))

        return cat

    def _among(self, leaves: Sequence[Any]) -> bool:
        """Whether images are among the operands, and but for numbers only arrays of four axes."""
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        return any(id(leaf) in self._known for leaf in arrays) and all(
            leaf.ndim in (0, 4) for leaf in arrays
        )


def _last(leaf: Any) -> Any:
    return channels_last(leaf) if isinstance(leaf, jax.Array) and leaf.ndim == 4 else leaf
