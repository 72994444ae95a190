"""A network in operations that converters to other formats know.

A function is traced to a jaxpr and evaluated equation by equation, with these replacements:

- the forms of convolutions (`ncap_jax.ops.convolutions`) become XLA's,
- maxima and sums over windows of images become Flax's pooling, for which converters have an
  operation (ONNX Runtime has none for windows over four axes),
- padding becomes `jax.numpy.pad`, for which converters take a batch of any size,
- calls (`jit`, custom derivatives) become what they contain,
- what does not depend on the arguments is computed at once: batch norm becomes one product and
  one sum. Converters take time that grows with the square of the number of operations.

Values are those of the function up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ncap_jax.ops import convolutions
from ncap_jax.ops.equations import INLINE, bind, inner_jaxpr

# Entries of an array that is computed beforehand though nothing as large goes into it.
LARGEST = 1 << 20
MAX, SUM = "reduce_window_max", "reduce_window_sum"


def portable(function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> Callable[..., Any]:
    """The same function, in operations that converters know.

    Args:
        function: of arrays, for inference: its derivatives are lost.
        arguments: shapes and dtypes of its arguments; a dimension may be symbolic.

    Returns:
        A function of arguments of these shapes.
    """
    closed, made = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure = jax.tree.structure(made)

    def run(*arrays: Array) -> Any:
        return jax.tree.unflatten(structure, _evaluate(closed, arrays))

    return run


def _evaluate(closed: jex.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts))
    env.update(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for eqn in closed.jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [read(v) for v in eqn.invars])))
    return [read(v) for v in closed.jaxpr.outvars]


def _equation(eqn: jex.JaxprEqn, values: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    if name in convolutions.FORMS:
        return [convolutions.general(*values, **eqn.params)]
    if name in (MAX, SUM) and _pools_images(eqn):
        return [_pooled(eqn, values[0])]
    if name == "pad" and _is_known(values[1]) and _pads_only(eqn):
        widths = [(low, high) for low, high, _ in eqn.params["padding_config"]]
        return [jnp.pad(values[0], widths, constant_values=np.asarray(values[1]).item())]
    if name in INLINE:
        return _evaluate(inner_jaxpr(eqn), values)
    if all(map(_is_known, values)) and _is_small(eqn, values):
        with jax.ensure_compile_time_eval():
            return bind(eqn, *values)
    return bind(eqn, *values)


def _is_known(value: Any) -> bool:
    """Whether it is the same whatever the images are."""
    return not isinstance(value, jax.core.Tracer)


def _is_small(eqn: jex.JaxprEqn, values: list[Any]) -> bool:
    """Whether the results of an equation have known shapes and take little more than `values`."""
    shapes = [shape for v in eqn.outvars if (shape := getattr(v.aval, "shape", None)) is not None]
    if not all(isinstance(side, int) for shape in shapes for side in shape):
        return False
    return sum(map(math.prod, shapes)) <= max(LARGEST, sum(map(np.size, values)))


def _pads_only(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation puts entries around an array, none between, and cuts none off."""
    return all(
        low >= 0 <= high and not between for low, high, between in eqn.params["padding_config"]
    )


def _pools_images(eqn: jex.JaxprEqn) -> bool:
    """Whether windows cover height and width of floating (batch, height, width, channels)."""
    params: Any = eqn.params
    aval: Any = eqn.invars[0].aval
    whole = (1,) * 4
    return (
        jnp.issubdtype(aval.dtype, jnp.floating)
        and len(params["window_dimensions"]) == 4
        and all(params[key] in (None, whole) for key in ("base_dilation", "window_dilation"))
        and all(
            params[key][i] == 1 for key in ("window_dimensions", "window_strides") for i in (0, 3)
        )
        and not np.any([params["padding"][i] for i in (0, 3)])
    )


def _pooled(eqn: jex.JaxprEqn, x: Array) -> Array:
    """Maximum or sum over windows, by Flax's pooling of the padded images."""
    params, largest = eqn.params, eqn.primitive.name == MAX
    if np.any(params["padding"]):
        x = jnp.pad(x, params["padding"], constant_values=-jnp.inf if largest else 0)
    window = params["window_dimensions"][1:3]
    # Looked up when it is called: a converter may have put its own in place.
    pool = nnx.max_pool if largest else nnx.avg_pool
    y = pool(x, window_shape=window, strides=params["window_strides"][1:3], padding="VALID")
    return y if largest else y * np.prod(window).astype(x.dtype)
