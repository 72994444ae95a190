"""The depthwise primitive against XLA's own convolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.ops import depthwise

pytestmark = pytest.mark.usefixtures("x64")

# docs/numerics.md: float64, sums of some hundred terms in two orders.
EXACT = 1e-12
CASES: dict[str, dict[str, Any]] = {
    "same": {},
    "strided": {"window_strides": (2, 2)},
    "uneven": {"window_strides": (2, 1), "padding": ((1, 2), (0, 3)), "kernel": (5, 2)},
    "valid": {"padding": "VALID", "kernel": (2, 3)},
    "cropped": {"padding": ((-1, 1), (0, -2))},
    "dilated": {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 0)), "window_strides": (1, 2)},
}


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def applied(convolution: Callable[..., Array], x: Array, w: Array, **options: Any) -> Array:
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return convolution(
        x,
        w,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        **options,
    )


ours = partial(applied, depthwise.convolution)
xla = partial(applied, lax.conv_general_dilated)


def derivatives(convolution: Callable[..., Array], x: Array, w: Array) -> dict[str, Any]:
    """Value, tangent, both gradients, and the derivatives of the gradients, as one tree."""
    tangents = draw(*x.shape, seed=7), draw(*w.shape, seed=8)
    y, tangent = jax.jvp(convolution, (x, w), tangents)
    g = draw(*y.shape, seed=9)

    def gradients(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(convolution, x, w)[1](g)

    by_input, by_filter = gradients(x, w, g)
    _, pull = jax.vjp(gradients, x, w, g)
    return {
        "value": y,
        "tangent": tangent,
        "gradients": (by_input, by_filter),
        "forward over reverse": jax.jvp(gradients, (x, w, g), (*tangents, g))[1],
        "reverse over reverse": pull(tangents),
    }


def primitives(function: Callable[..., Array], *arguments: Array) -> list[str]:
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns]


def assert_equal(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_xla(case):
    options = dict(CASES[case])
    x, w = draw(2, 7, 8, 3), draw(*options.pop("kernel", (3, 3)), 1, 3, seed=1)
    f, reference = (partial(g, **options) for g in (ours, xla))
    assert primitives(f, x, w) == [depthwise.NAME]

    @jax.jit
    def both(x: Array, w: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        return derivatives(f, x, w), derivatives(reference, x, w)

    assert_equal(*both(x, w))


def test_outside_jit_it_is_the_same():
    x, w = draw(2, 7, 8, 3), draw(3, 3, 1, 3, seed=1)
    y, pull = jax.vjp(ours, x, w)
    expected, expected_pull = jax.vjp(xla, x, w)
    assert_equal((y, pull(y)), (expected, expected_pull(expected)))


@pytest.mark.parametrize("batched", ["both", "images", "filters"])
def test_vmap(batched):
    x, w = draw(4, 2, 7, 8, 3), draw(4, 3, 3, 1, 3, seed=1)
    x, w = (x[0] if batched == "filters" else x), (w[0] if batched == "images" else w)
    axes = (None if batched == "filters" else 0, None if batched == "images" else 0)

    def with_gradients(convolution: Callable[..., Array], x: Array, w: Array) -> Any:
        y, pull = jax.vjp(convolution, x, w)
        return y, pull(draw(*y.shape, seed=9))

    @jax.jit
    def both(x: Array, w: Array) -> list[Any]:
        return [
            jax.vmap(partial(with_gradients, partial(f, window_strides=(2, 2))), in_axes=axes)(x, w)
            for f in (ours, xla)
        ]

    assert_equal(*both(x, w))


@pytest.mark.parametrize(
    ("x", "options"),
    [
        ((2, 7, 8, 6), {"feature_group_count": 3}),
        ((2, 7, 8, 3), {"rhs_dilation": (2, 2)}),
        ((2, 2, 2, 3), {"padding": "VALID"}),  # no pixel left
        ((0, 7, 8, 3), {}),
    ],
)
def test_everything_else_is_the_usual_convolution(x, options):
    groups = options.pop("feature_group_count", x[3])
    x, w = draw(*x), draw(3, 3, x[3] // groups, x[3], seed=1)
    common = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    common |= {"window_strides": (1, 1), "padding": "SAME", **options}
    f = partial(depthwise.convolution, **common)
    assert depthwise.NAME not in primitives(f, x, w)
    assert_equal([f(x, w)], [lax.conv_general_dilated(x, w, **common)])


def test_sums_of_bfloat16_are_float32():
    x, w = draw(2, 7, 8, 3).astype(jnp.bfloat16), draw(3, 3, 1, 3, seed=1).astype(jnp.bfloat16)
    found = ours(x, w)
    assert found.dtype == jnp.bfloat16
    # One rounding of the result to 8 bits, as if it had been computed exactly.
    exact = xla(x.astype(jnp.float32), w.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, exact)


def test_accelerators_get_their_own_convolutions():
    """Lowered for a GPU, which needs none: value and both gradients are convolutions."""
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 1, 3)))
    step = jax.jit(jax.grad(lambda x, w: jnp.sum(ours(x, w) ** 2), (0, 1)))
    text = step.trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in text
    text = step.trace(x, w).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in text
