"""Bilinear primitives that are computed one way on the CPU and another way elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
from jax import Array
from jax.interpreters import ad, batching, mlir


def bilinear_primitive(
    name: str,
    shape: Callable[..., jax.core.ShapedArray],
    on_cpu: Callable[..., Array],
    elsewhere: Callable[..., Array],
    transposes: tuple[Callable[..., Array], Callable[..., Array]],
    batch: Callable[..., tuple[Array, int]],
) -> jex.Primitive:
    """A bilinear primitive from its rules.

    Args:
        name: of the primitive.
        shape: abstract operands and parameters -> abstract result.
        on_cpu: operands and parameters -> result, as the CPU computes it.
        elsewhere: the same on other devices.
        transposes: by the first and by the second operand.
        batch: rule for `jax.vmap`.
    """
    primitive = jex.Primitive(name)
    primitive.def_abstract_eval(shape)

    @partial(jax.jit, static_argnames="params")
    def run(x: Array, y: Array, params: tuple[tuple[str, Any], ...]) -> Array:
        return primitive.bind(x, y, **dict(params))

    primitive.def_impl(lambda x, y, **params: run(x, y, params=tuple(params.items())))
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = batch
    return primitive
