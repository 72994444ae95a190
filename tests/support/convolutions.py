"""Convolutions of the package beside XLA's, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ncap_jax.ops.convolutions import convolution

Convolution = Callable[..., Array]

# docs/numerics.md: float64, sums of some hundred terms in two orders.
EXACT = 1e-12


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _applied(function: Convolution, x: Array, w: Array, *, groups: int, **options: Any) -> Array:
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return function(
        x,
        w,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        **options,
    )


ours = partial(_applied, convolution)
xla = partial(_applied, lax.conv_general_dilated)


def derivatives(function: Convolution, x: Array, w: Array) -> dict[str, Any]:
    """Value, tangent, both gradients, and the derivatives of the gradients, as one tree."""
    tangents = draw(*x.shape, seed=7), draw(*w.shape, seed=8)
    y, tangent = jax.jvp(function, (x, w), tangents)
    g = draw(*y.shape, seed=9)

    def gradients(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(function, x, w)[1](g)

    by_input, by_filter = gradients(x, w, g)
    _, pull = jax.vjp(gradients, x, w, g)
    return {
        "value": y,
        "tangent": tangent,
        "gradients": (by_input, by_filter),
        "forward over reverse": jax.jvp(gradients, (x, w, g), (*tangents, g))[1],
        "reverse over reverse": pull(tangents),
    }


def both_derivatives(f: Convolution, reference: Convolution, x: Array, w: Array) -> Any:
    """`derivatives` of two functions, compiled together."""
    return jax.jit(lambda x, w: (derivatives(f, x, w), derivatives(reference, x, w)))(x, w)


def both_under_vmap(
    f: Convolution, reference: Convolution, axes: tuple[int | None, int | None], x: Array, w: Array
) -> Any:
    """Value and gradients of two functions, strided, under `vmap` over these axes."""

    def with_gradients(function: Convolution, x: Array, w: Array) -> Any:
        y, pull = jax.vjp(function, x, w)
        return y, pull(draw(*y.shape, seed=9))

    strided = [partial(with_gradients, partial(g, window_strides=(2, 2))) for g in (f, reference)]
    return jax.jit(lambda x, w: [jax.vmap(g, in_axes=axes)(x, w) for g in strided])(x, w)


def primitives(function: Convolution, *arguments: Array) -> list[str]:
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns]


def assert_equal(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)
