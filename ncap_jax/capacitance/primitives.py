"""The kinds of JAX primitives in a model's jaxpr, and what an equation of one tells."""

from __future__ import annotations

from typing import Any

import jax.extend.core as jex

from ncap_jax.ops.equations import INLINE, inner_jaxpr

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "convert_element_type", "copy", "cos", "cosh", "div", "eq", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log",
    "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "pow", "reduce_precision",
    "rsqrt", "round", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh",
))
# The derivative of these by the first operand is 1: a stream passes them unchanged.
SHIFTS = frozenset(("add", "add_any", "sub", "convert_element_type", "copy"))
REARRANGEMENTS = frozenset((
    "broadcast_in_dim", "concatenate", "copy", "convert_element_type", "dynamic_slice",
    "expand_dims", "gather", "pad", "reshape", "rev", "slice", "split", "squeeze", "stack", "tile",
    "transpose", "unstack",
))
REDUCTIONS = frozenset(("reduce_sum", "reduce_max", "reduce_min"))
LINEAR = REARRANGEMENTS | REDUCTIONS | {"reduce_window_sum", "reduce_window_max"}
# fmt: on
CONTROL = frozenset(("scan", "while", "cond"))


def shape(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal of a jaxpr."""
    return atom.aval.shape


def is_elementwise(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation, or the whole body of a call, maps entry by entry."""
    name = eqn.primitive.name
    if name not in INLINE:
        return name in ELEMENTWISE
    shapes = {shape(v) for v in (*eqn.invars, *eqn.outvars)}
    body = inner_jaxpr(eqn).jaxpr
    return len(eqn.outvars) == 1 == len(shapes) and all(map(is_elementwise, body.eqns))


def scan_sizes(eqn: jex.JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried.

    Read off the shapes, because JAX 0.12 renames the parameters that say so: what is sliced or
    stacked has one axis less inside.
    """
    inner = inner_jaxpr(eqn).jaxpr
    sliced = sum(shape(o) != shape(i) for o, i in zip(eqn.invars, inner.invars))
    carried = sum(shape(o) == shape(i) for o, i in zip(eqn.outvars, inner.outvars))
    return len(eqn.invars) - carried - sliced, carried


def source_location(*eqns: jex.JaxprEqn) -> str:
    """The function and line of the user's code that an equation comes from.

    Args:
        eqns: the equation, then the calls that contain it, innermost first.
    """
    for eqn in eqns:
        traceback: Any = eqn.source_info.traceback
        for frame in traceback.frames if traceback else ():
            if not any(f"/{p}/" in frame.file_name for p in ("jax", "flax", "jaxlib")):
                return f"{frame.function_name} ({frame.file_name}:{frame.line_num})"
    return "the model"
