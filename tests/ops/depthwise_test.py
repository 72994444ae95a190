"""The depthwise primitive against XLA's own convolution."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.ops import depthwise
from ncap_jax.ops.convolutions import convolution
from tests.support import convolutions
from tests.support.convolutions import assert_equal, draw, primitives

pytestmark = pytest.mark.usefixtures("x64")

CASES: dict[str, dict[str, Any]] = {
    "same": {},
    "strided": {"window_strides": (2, 2)},
    "uneven": {"window_strides": (2, 1), "padding": ((1, 2), (0, 3)), "kernel": (5, 2)},
    "valid": {"padding": "VALID", "kernel": (2, 3)},
    "cropped": {"padding": ((-1, 1), (0, -2))},
    "dilated": {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 0)), "window_strides": (1, 2)},
}


def ours(x: Array, w: Array, **options: Any) -> Array:
    return convolutions.ours(x, w, groups=x.shape[-1], **options)


def xla(x: Array, w: Array, **options: Any) -> Array:
    return convolutions.xla(x, w, groups=x.shape[-1], **options)


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_xla(case):
    options = dict(CASES[case])
    x, w = draw(2, 7, 8, 3), draw(*options.pop("kernel", (3, 3)), 1, 3, seed=1)
    f, reference = (partial(g, **options) for g in (ours, xla))
    assert primitives(f, x, w) == [depthwise.NAME]
    assert_equal(*convolutions.both_derivatives(f, reference, x, w))


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
    assert_equal(*convolutions.both_under_vmap(ours, xla, axes, x, w))


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
    f = partial(convolution, **common)
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
