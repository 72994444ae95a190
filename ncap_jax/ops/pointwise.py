"""1 × 1 convolution as a primitive of its own: a product of matrices on the CPU.

    y[b, p, q, o] = Σ_i x[b, p, q, i] w[0, 0, i, o]                                          (P1)
    dw[0, 0, i, o] = Σ_bpq x[b, p, q, i] g[b, p, q, o]                                       (P2)

With pixels as rows these are `X W` and `Xᵀ G`, for which the CPU has a fast product of matrices.
XLA's CPU compiler runs (P1) as fast in either form, but (P2), and the gradient by the input, as
convolutions with images for filters, two to three times slower: in networks of bottlenecks most of
a training step. Figures: `python -m benchmarks.convolutions`.

On accelerators both lower to XLA's convolution. A stride is applied to the image first: XLA would
compute the gradient of the pixels that are left out, which is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ncap_jax.ops.bilinear import bilinear_primitive
from ncap_jax.ops.convolutions import FORMS, general, general_gradient, general_params
from ncap_jax.ops.dtypes import accumulator

NAME = "pointwise_convolution"
Params = dict[str, Any]
_HERE = (0, 0), (0, 0)
_ONCE = (1, 1)


def convolution(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: Any,
    dilation: Sequence[int] | None,
    groups: int,
    precision: Any,
) -> Array | None:
    """(P1) of every stride-th pixel of x (batch, height, width, in), by w (1, 1, in, out).

    Returns:
        (batch, height', width', out) in the dtype of the operands; None where the filter is larger,
        pixels are added, channels are grouped, or nothing is there.
    """
    as_it_is = isinstance(padding, str) or all(tuple(pads) == (0, 0) for pads in padding)
    if w.shape[:2] != (1, 1) or groups != 1 or not as_it_is or 0 in (*x.shape, *w.shape):
        return None
    if any(step != 1 for step in dilation or ()):
        return None
    if tuple(strides) != _ONCE:
        x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))
    return _bind(x, w, general_params(_ONCE, _HERE, None, 1, precision))


def _bind(x: Array, w: Array, params: Params) -> Array:
    return pointwise_p.bind(x, w, **params)


def _product(x: Array, w: Array, **params: Any) -> Array:
    """(P1) as a product of matrices."""
    y = _matmul(x.reshape(-1, x.shape[3]), w[0, 0], params)
    return y.reshape(*x.shape[:3], w.shape[3])


def _gradient(x: Array, g: Array, **params: Any) -> Array:
    """(P2) as a product of matrices."""
    rows = x.reshape(-1, x.shape[3]), g.reshape(-1, g.shape[3])
    return _matmul(rows[0].T, rows[1], params)[None, None]


def _matmul(a: Array, b: Array, params: Params) -> Array:
    wide = accumulator(a.dtype)
    product = jnp.matmul(a, b, precision=params["precision"], preferred_element_type=wide)
    return product.astype(a.dtype)


def _shape(x: Any, w: Any, **params: Any) -> jax.core.ShapedArray:
    del params
    return jax.core.ShapedArray((*x.shape[:3], w.shape[3]), x.dtype)


def _gradient_shape(x: Any, g: Any, **params: Any) -> jax.core.ShapedArray:
    del params
    return jax.core.ShapedArray((1, 1, x.shape[3], g.shape[3]), x.dtype)


def _by_input(g: Array, x: Any, w: Array, **params: Any) -> Array:
    """Cotangent of x: (P1) of g, with the filter transposed."""
    del x
    return _bind(g, w.swapaxes(2, 3), params)


def _by_filter(g: Array, x: Array, w: Any, **params: Any) -> Array:
    """Cotangent of w: (P2)."""
    del w
    return _gradient_p.bind(x, g, **params)


def _gradient_by_input(dw: Array, x: Any, g: Array, **params: Any) -> Array:
    """(P2) is linear in x: its transpose is (P1) of g by dw transposed."""
    return _by_input(g, x, dw, **params)


def _gradient_by_cotangent(dw: Array, x: Array, g: Any, **params: Any) -> Array:
    """(P2) is linear in g: its transpose is (P1) of x by dw."""
    del g
    return _bind(x, dw, params)


def _batch(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """(P1) under `vmap`: further samples or outputs; one product each where both differ."""
    (x, w), (x_axis, w_axis) = arguments, axes
    if w_axis is None:
        assert x_axis is not None
        x = jnp.moveaxis(x, x_axis, 0)
        y = _bind(x.reshape(-1, *x.shape[2:]), w, params)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    if x_axis is None:
        w = jnp.moveaxis(w, w_axis, 3)
        y = _bind(x, w.reshape(*w.shape[:3], -1), params)
        return y.reshape(*y.shape[:3], *w.shape[3:]), 3
    x, w = jnp.moveaxis(x, x_axis, 0), jnp.moveaxis(w, w_axis, 0)[:, 0, 0]
    return _contract("zbhwi,zio->zbhwo", x, w, params), 0


def _batch_gradient(
    arguments: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """(P2) under `vmap`: one product each where both differ, else further inputs or outputs."""
    (x, g), (x_axis, g_axis) = arguments, axes
    if x_axis is not None and g_axis is not None:
        x, g = jnp.moveaxis(x, x_axis, 0), jnp.moveaxis(g, g_axis, 0)
        return _contract("zbhwi,zbhwo->zio", x, g, params)[:, None, None], 0
    place = 2 if g_axis is None else 3
    varying, axis = (x, x_axis) if g_axis is None else (g, g_axis)
    assert axis is not None
    moved = jnp.moveaxis(varying, axis, 3)
    merged = moved.reshape(*moved.shape[:3], -1)
    pair = (merged, g) if g_axis is None else (x, merged)
    dw = _gradient_p.bind(*pair, **params)
    return dw.reshape(*dw.shape[:place], *moved.shape[3:], *dw.shape[place + 1 :]), place


def _contract(equation: str, a: Array, b: Array, params: Params) -> Array:
    wide = accumulator(a.dtype)
    precision = params["precision"]
    y = jnp.einsum(equation, a, b, precision=precision, preferred_element_type=wide)
    return y.astype(a.dtype)


pointwise_p = bilinear_primitive(NAME, _shape, _product, general, (_by_input, _by_filter), _batch)
_gradient_p = bilinear_primitive(
    f"{NAME}_gradient",
    _gradient_shape,
    _gradient,
    partial(general_gradient, kernel=_ONCE),
    (_gradient_by_input, _gradient_by_cotangent),
    _batch_gradient,
)
FORMS[NAME] = convolution
