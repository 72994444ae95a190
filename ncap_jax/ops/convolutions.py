"""`lax.conv_general_dilated`, with the forms that suit a CPU where XLA's is slow.

`ncap_jax.ops.depthwise`, `ncap_jax.ops.pointwise` and, after these, `ncap_jax.ops.spatial` register
them here, as primitives of their own. They carry the parameters of `lax.conv_general_dilated_p`, so
that code that reads jaxprs (`ncap_jax.capacitance.trace`) can treat one as the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array, lax

# The order of dimensions that the forms take: images NHWC, filters HWIO.
LAYOUT = ("NHWC", "HWIO", "NHWC")
NUMBERS = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# Name of a primitive -> (x, w, strides, padding, dilation, groups, precision) -> its value, or None
# where another form is right.
FORMS: dict[str, Callable[..., Array | None]] = {}


def convolution(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """`lax.conv_general_dilated`; 1 x 1, depthwise and large ones by primitives of their own.

    Of images: NHWC by HWIO, floating point, with a filter that is not dilated. Everything else is
    passed on. `flax.nnx.Conv` takes this function as `conv_general_dilated`.

    Args:
        lhs: (batch, height, width, in).
        rhs: (kernel height, kernel width, in / groups, out).
        window_strides: strides along both axes.
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        lhs_dilation: dilation of the image along both axes; None: (1, 1).
        rhs_dilation: dilation of the filter along both axes; None: (1, 1).
        dimension_numbers: as in `lax.conv_general_dilated`.
        feature_group_count: number of groups of channels.
        batch_group_count: number of groups of samples.
        precision: of the products on accelerators; on the CPU they are taken in at least float32.
        preferred_element_type: dtype of the sums.
        out_sharding: sharding of the result, under explicit sharding.

    Returns:
        (batch, height', width', out) in the dtype of the operands.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    of_images = (
        numbers == NUMBERS
        and batch_group_count == 1
        and all(step == 1 for step in rhs_dilation or ())
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and lhs.dtype == rhs.dtype
        and preferred_element_type is None
        and out_sharding is None
    )
    shared = lhs, rhs, window_strides, padding, lhs_dilation
    for form in FORMS.values() if of_images else ():
        y = form(*shared, feature_group_count, precision)
        if y is not None:
            return y
    optional = {} if out_sharding is None else {"out_sharding": out_sharding}
    return lax.conv_general_dilated(
        *shared,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        **optional,
    )


def as_general(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
    """An equation of a jaxpr; if it is one of these convolutions, the general one that it is."""
    if eqn.primitive.name not in FORMS:
        return eqn
    return eqn.replace(primitive=lax.conv_general_dilated_p)


def general(x: Array, w: Array, **params: Any) -> Array:
    """XLA's convolution; `params` are those of a form's equation."""
    return lax.conv_general_dilated(x, w, **{**params, "dimension_numbers": LAYOUT})


def general_params(
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int] | None,
    groups: int,
    precision: Any,
) -> dict[str, Any]:
    """The parameters of `lax.conv_general_dilated_p` for a filter that is not dilated."""
    return {
        "window_strides": tuple(strides),
        "padding": tuple((int(low), int(high)) for low, high in padding),
        "lhs_dilation": tuple(dilation or (1, 1)),
        "rhs_dilation": (1, 1),
        "dimension_numbers": NUMBERS,
        "feature_group_count": groups,
        "batch_group_count": 1,
        "precision": lax.Precision(precision) if isinstance(precision, str) else precision,
        "preferred_element_type": None,
    }


def params_of(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: Any,
    dilation: Sequence[int] | None,
    groups: int,
    precision: Any,
) -> dict[str, Any]:
    """`general_params` of these operands, with the padding in pixels."""
    dilation = tuple(dilation or (1, 1))
    if isinstance(padding, str):
        dilated = [(n - 1) * d + 1 for n, d in zip(x.shape[1:3], dilation)]
        padding = lax.padtype_to_pads(dilated, w.shape[:2], strides, padding)
    return general_params(strides, padding, dilation, groups, precision)


def output_sides(x: Any, kernel: Sequence[int], params: Mapping[str, Any]) -> list[int]:
    """Height and width of the output."""
    sides = []
    for axis, (low, high) in enumerate(params["padding"]):
        padded = low + (x.shape[1 + axis] - 1) * params["lhs_dilation"][axis] + 1 + high
        sides.append(max(0, (padded - kernel[axis]) // params["window_strides"][axis] + 1))
    return sides


def general_gradient(x: Array, g: Array, *, kernel: Sequence[int], **params: Any) -> Array:
    """The gradient by a filter of this height and width, as XLA's convolution has it."""
    inputs = x.shape[3] // params["feature_group_count"]
    w = jax.ShapeDtypeStruct((*kernel, inputs, g.shape[3]), x.dtype)
    return jax.linear_transpose(lambda w: general(x, w, **params), w)(g)[0]
