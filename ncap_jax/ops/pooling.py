"""Maximum and mean over square windows of images (batch, height, width, channels).

Values and gradients are those of Flax's `max_pool` and of its `avg_pool` without counting the
padding, to the last bit.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Pairs = tuple[tuple[int, int], tuple[int, int]]
# "SAME" as TensorFlow means it (the output has ceil(n / stride) pixels, the odd pixel of padding
# at the end), "VALID" (none), one number for all sides, or ((top, bottom), (left, right)).
Padding = Literal["SAME", "VALID"] | int | Pairs


def max_pool(x: Array, window: int, stride: int, padding: Padding = "VALID") -> Array:
    """Maximum over windows; padding counts as minus infinity.

    Of equal maxima the first, row by row, gets the gradient; a NaN makes its windows NaN.

    On the CPU, windows that do not overlap are taken by shifted slices. Values and gradients are
    the same to the last bit, but XLA looks for each window's maximum a second time on the way
    back, element by element, which takes several times as long (`python -m benchmarks.max_pool`).

    Args:
        x: (batch, height, width, channels).
        window: side of the windows in pixels.
        stride: from one window to the next, in pixels.
        padding: at the edges.
    """
    if by_slices(window, stride):
        return running_max_pool(x, window, stride, padding)
    return _reduce(x, -jnp.inf, lax.max, window, stride, padding)


def do_not_overlap(window: int, stride: int) -> bool:
    """Whether windows share no pixel."""
    return window <= stride


def by_slices(window: int, stride: int) -> bool:
    """Whether `max_pool` takes windows by slices."""
    return jax.default_backend() == "cpu" and do_not_overlap(window, stride)


def running_max_pool(x: Array, window: int, stride: int, padding: Padding) -> Array:
    """`max_pool` as a running maximum over window² shifted slices."""
    pads = sides(padding)
    if isinstance(pads, str):
        rows, columns = lax.padtype_to_pads(x.shape[1:3], (window,) * 2, (stride,) * 2, pads)
        pads = (rows, columns)
    if any(itertools.chain.from_iterable(pads)):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    height, width = (max(0, (n - window) // stride * stride + 1) for n in x.shape[1:3])
    best = x[:, :height:stride, :width:stride]
    for i, j in itertools.islice(itertools.product(range(window), repeat=2), 1, None):
        here = x[:, i : i + height : stride, j : j + width : stride]
        best = jnp.where((here > best) | jnp.isnan(here), here, best)
    return best


def zero_padded_max_pool(x: Array, window: int, stride: int, margin: int) -> Array:
    """Maximum over windows after padding with *zeros*, as Keras's ResNet and DenseNet do."""
    zeros = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return max_pool(jnp.pad(x, zeros), window, stride)


def average_pool(x: Array, window: int, stride: int, padding: Padding = "VALID") -> Array:
    """Mean over windows; padding does not count, so windows at the edge average fewer pixels.

    Arguments as for `max_pool`.
    """
    total = _reduce(x, 0.0, lax.add, window, stride, padding)
    ones = jnp.ones((1, *x.shape[1:3], 1))
    return total / _reduce(ones, 0.0, lax.add, window, stride, padding)


def sides(padding: Padding) -> Literal["SAME", "VALID"] | Pairs:
    """A padding as JAX and Flax take it: one number stands for all four sides."""
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def _reduce(
    x: Array, initial: float, combine: Any, window: int, stride: int, padding: Padding
) -> Array:
    pads = sides(padding)
    whole = pads if isinstance(pads, str) else ((0, 0), *pads, (0, 0))
    return lax.reduce_window(
        x, initial, combine, (1, window, window, 1), (1, stride, stride, 1), whole
    )
