"""Depthwise convolution as a primitive of its own: fast on the CPU, the usual one elsewhere.

    y[b, p, q, c] = Σ_ij x̃[b, s p + i, s q + j, c] w[i, j, 0, c]                             (D1)

with x̃ the padded input, s the stride and one filter per channel. XLA's CPU compiler runs this as
a grouped convolution, one group after the other. That is 10 to 50 times slower than (D1) taken
literally: kh · kw shifted slices, each multiplied by a row of weights, and added up, which XLA
fuses into one vectorised loop. The gradients are of the same kind. By the input it is (D1) again,
of the dilated cotangent with the filter rotated by 180 degrees; by the filter it is

    dw[i, j, 0, c] = Σ_bpq x̃[b, s p + i, s q + j, c] g[b, p, q, c]                            (D2)

which is first accumulated elementwise over the samples: XLA does not vectorise a reduction over
leading dimensions. Figures: `python -m benchmarks.convolutions`.

On accelerators both lower to XLA's convolution, whose library kernels are faster there. The
primitive carries the parameters of `lax.conv_general_dilated_p` (`ncap_jax.ops.convolutions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ncap_jax.ops.bilinear import bilinear_primitive
from ncap_jax.ops.convolutions import (
    FORMS,
    general,
    general_gradient,
    output_sides,
    params_of,
)
from ncap_jax.ops.dtypes import accumulator

NAME = "depthwise_convolution"
Params = dict[str, Any]


def convolution(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: Any,
    dilation: Sequence[int] | None,
    groups: int,
    precision: Any,
) -> Array | None:
    """(D1) of x (batch, height, width, channels) by w (height, width, 1, channels).

    Returns:
        (batch, height', width', channels) in the dtype of the operands; None where a filter sees
        several channels, or no pixel is left.
    """
    if not groups == x.shape[3] == w.shape[3] or w.shape[2] != 1:
        return None
    params = params_of(x, w, strides, padding, dilation, x.shape[3], precision)
    if 0 in (*x.shape, *w.shape, *output_sides(x, w.shape, params)):
        return None
    return _convolution_p.bind(x, w, **params)


# ---- the arithmetic -----------------------------------------------------------------------------


def _windows(x: Array, kernel: Sequence[int], params: Params) -> Iterator[Array]:
    """x̃[:, s p + i, s q + j, :] for every (i, j) of the filter, row by row."""
    rows, columns = output_sides(x, kernel, params)
    inner = [(*pads, d - 1) for pads, d in zip(params["padding"], params["lhs_dilation"])]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *inner, (0, 0, 0)))
    down, right = params["window_strides"]
    last = (rows - 1) * down + 1, (columns - 1) * right + 1
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            limits = x.shape[0], i + last[0], j + last[1], x.shape[3]
            yield lax.slice(x, (0, i, j, 0), limits, (1, down, right, 1))


def _shifted(x: Array, w: Array, **params: Any) -> Array:
    """(D1)."""
    dtype, wide = x.dtype, accumulator(x.dtype)
    taps = w.astype(wide).reshape(-1, 1, 1, 1, w.shape[3])
    windows = _windows(x.astype(wide), w.shape[:2], params)
    parts = [window * tap for window, tap in zip(windows, taps)]
    return sum(parts[1:], parts[0]).astype(dtype)


def _accumulated(x: Array, g: Array, *, kernel: Sequence[int], **params: Any) -> Array:
    """(D2)."""
    dtype, wide = x.dtype, accumulator(x.dtype)

    def add(
        totals: tuple[Array, ...], sample: tuple[Array, Array]
    ) -> tuple[tuple[Array, ...], None]:
        one, cotangent = (array.astype(wide) for array in sample)
        windows = _windows(one[None], kernel, params)
        return tuple(t + w[0] * cotangent for t, w in zip(totals, windows)), None

    zeros = (jnp.zeros(g.shape[1:], wide),) * (kernel[0] * kernel[1])
    totals, _ = lax.scan(add, zeros, (x, g))
    taps = jnp.stack([total.sum((0, 1)) for total in totals])
    return taps.reshape(*kernel, 1, x.shape[3]).astype(dtype)


# ---- the primitives -----------------------------------------------------------------------------


def _convolution_shape(x: Any, w: Any, **params: Any) -> jax.core.ShapedArray:
    return jax.core.ShapedArray(
        (x.shape[0], *output_sides(x, w.shape, params), x.shape[3]), x.dtype
    )


def _gradient_shape(
    x: Any, g: Any, *, kernel: Sequence[int], **params: Any
) -> jax.core.ShapedArray:
    del g, params
    return jax.core.ShapedArray((*kernel, 1, x.shape[3]), x.dtype)


def _by_input(g: Array, x: Any, w: Array, **params: Any) -> Array:
    """Cotangent of x; `x` is the placeholder of a linear argument."""
    return _transposed(g, w, x.aval.shape[1:3], params)


def _transposed(g: Array, w: Array, sizes: Sequence[int], params: Params) -> Array:
    """Transpose of (D1) for images of these sizes: (D1) of the dilated g, the filter rotated."""
    padding = []
    for axis, size in enumerate(sizes):
        before = w.shape[axis] - 1 - params["padding"][axis][0]
        there = (size - 1) * params["lhs_dilation"][axis] + 1
        here = (g.shape[1 + axis] - 1) * params["window_strides"][axis] + 1
        padding.append((before, there + w.shape[axis] - 1 - here - before))
    rotated = lax.rev(w, (0, 1))
    strides, dilation = params["lhs_dilation"], params["window_strides"]
    back = params_of(g, rotated, strides, padding, dilation, g.shape[3], params["precision"])
    return _convolution_p.bind(g, rotated, **back)


def _by_filter(g: Array, x: Array, w: Any, **params: Any) -> Array:
    """Cotangent of w: (D2)."""
    return _gradient_p.bind(x, g, kernel=w.aval.shape[:2], **params)


def _gradient_by_input(
    dw: Array, x: Any, g: Array, *, kernel: Sequence[int], **params: Any
) -> Array:
    """(D2) is linear in x: its transpose is that of (D1) with dw as the filter."""
    del kernel
    return _transposed(g, dw, x.aval.shape[1:3], params)


def _gradient_by_cotangent(
    dw: Array, x: Array, g: Any, *, kernel: Sequence[int], **params: Any
) -> Array:
    """(D2) is linear in g: its transpose is (D1) with dw as the filter."""
    del g, kernel
    return _convolution_p.bind(x, dw, **params)


def _batch_convolution(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """(D1) under `vmap`: further samples, or further channels where the filters differ."""
    (x, w), (x_axis, w_axis) = arguments, axes
    if w_axis is None:  # further samples
        assert x_axis is not None
        x = jnp.moveaxis(x, x_axis, 0)
        y = _convolution_p.bind(x.reshape(-1, *x.shape[2:]), w, **params)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    size = w.shape[w_axis]
    x, w = (_into_channels(a, d, size) for a, d in ((x, x_axis), (w, w_axis)))
    y = _convolution_p.bind(x, w, **{**params, "feature_group_count": x.shape[3]})
    return y.reshape(*y.shape[:3], size, -1), 3


def _batch_gradient(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """(D2) under `vmap`: further channels."""
    size = next(a.shape[d] for a, d in zip(arguments, axes) if d is not None)
    x, g = (_into_channels(a, d, size) for a, d in zip(arguments, axes))
    dw = _gradient_p.bind(x, g, **{**params, "feature_group_count": x.shape[3]})
    return dw.reshape(*dw.shape[:3], size, -1), 3


def _into_channels(array: Array, axis: int | None, size: int) -> Array:
    """(..., channels) -> (..., size · channels): moves a batched axis there, or repeats."""
    if axis is None:
        array, axis = jnp.broadcast_to(array, (size, *array.shape)), 0
    moved = jnp.moveaxis(array, axis, -2)
    return moved.reshape(*moved.shape[:-2], -1)


_convolution_p = bilinear_primitive(
    NAME,
    _convolution_shape,
    _shifted,
    general,
    (_by_input, _by_filter),
    _batch_convolution,
)
_gradient_p = bilinear_primitive(
    f"{NAME}_gradient",
    _gradient_shape,
    _accumulated,
    general_gradient,
    (_gradient_by_input, _gradient_by_cotangent),
    _batch_gradient,
)
FORMS[NAME] = convolution
