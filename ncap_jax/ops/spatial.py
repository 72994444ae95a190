"""Convolution of large images: on the CPU its gradient by the filter is a sum over parts.

    y = x * w                                                                                (S1)
    dw = Σ over parts P of the batch of  ∂⟨x_P * w, g_P⟩ / ∂w                                 (S2)

XLA's CPU compiler computes the gradient by the filter as a convolution whose filter is all of g.
Once g is larger than the processor's last cache, that is slow: value and both gradients take up to
twice as long. (S2) is the same convolution of parts that stay in it, which also run beside one
another. Figures: `python -m benchmarks.convolutions`. Value and gradient by the input are XLA's
own, as everything is on accelerators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ncap_jax.ops.bilinear import bilinear_primitive
from ncap_jax.ops.convolutions import FORMS, general, general_gradient, output_sides, params_of

NAME = "spatial_convolution"
# Bytes of the larger of x and g from which parts pay, those of a part, and how many parts there are
# at most: each is a call in the program, which takes time to compile.
LEAST, PART, MOST_PARTS = 12 * 2**20, 2 * 2**20, 32


def convolution(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: Any,
    dilation: Sequence[int] | None,
    groups: int,
    precision: Any,
) -> Array | None:
    """(S1) of x (batch, height, width, in) by w (height, width, in, out).

    Returns:
        (batch, height', width', out) in the dtype of the operands; None where the images are small,
        where they are dilated, channels are grouped or numbers have less than 32 bits, whose parts
        would be rounded before they are added.
    """
    if groups != 1 or x.dtype.itemsize < 4 or any(step != 1 for step in dilation or ()):
        return None
    params = params_of(x, w, strides, padding, None, 1, precision)
    if max(x.nbytes, _shape(x, w, **params).size * x.dtype.itemsize) < LEAST:
        return None
    return spatial_p.bind(x, w, **params)


def _shape(x: Any, w: Any, **params: Any) -> jax.core.ShapedArray:
    sides = output_sides(x, w.shape, params)
    return jax.core.ShapedArray((x.shape[0], *sides, w.shape[3]), x.dtype)


def _gradient_shape(
    x: Any, g: Any, *, kernel: Sequence[int], **params: Any
) -> jax.core.ShapedArray:
    del params
    return jax.core.ShapedArray((*kernel, x.shape[3], g.shape[3]), x.dtype)


def _gradient_in_parts(x: Array, g: Array, **params: Any) -> Array:
    """(S2)."""
    count = len(x)
    image = max(x.nbytes, g.nbytes) // count
    size = max(1, PART // image, -(-count // MOST_PARTS))
    starts = range(0, count, size)
    parts = [general_gradient(x[i : i + size], g[i : i + size], **params) for i in starts]
    return jnp.sum(jnp.stack(parts), axis=0)


def _by_input(g: Array, x: Any, w: Array, **params: Any) -> Array:
    """Cotangent of x; `x` is the placeholder of a linear argument."""
    images = jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)
    return jax.linear_transpose(lambda x: general(x, w, **params), images)(g)[0]


def _by_filter(g: Array, x: Array, w: Any, **params: Any) -> Array:
    """Cotangent of w: (S2)."""
    return _gradient_p.bind(x, g, kernel=w.aval.shape[:2], **params)


def _gradient_by_input(
    dw: Array, x: Any, g: Array, *, kernel: Sequence[int], **params: Any
) -> Array:
    """(S2) is linear in x: its transpose is that of (S1) with dw as the filter."""
    del kernel
    return _by_input(g, x, dw, **params)


def _gradient_by_cotangent(
    dw: Array, x: Array, g: Any, *, kernel: Sequence[int], **params: Any
) -> Array:
    """(S2) is linear in g: its transpose is (S1) with dw as the filter."""
    del g, kernel
    return spatial_p.bind(x, dw, **params)


def _batch(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """Under `vmap`: as XLA has it."""
    return jax.vmap(lambda x, w: general(x, w, **params), axes)(*arguments), 0


def _batch_gradient(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    return jax.vmap(lambda x, g: general_gradient(x, g, **params), axes)(*arguments), 0


spatial_p = bilinear_primitive(NAME, _shape, general, general, (_by_input, _by_filter), _batch)
_gradient_p = bilinear_primitive(
    f"{NAME}_gradient",
    _gradient_shape,
    _gradient_in_parts,
    general_gradient,
    (_gradient_by_input, _gradient_by_cotangent),
    _batch_gradient,
)
FORMS[NAME] = convolution
