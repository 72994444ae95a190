"""The 1 × 1 convolution against XLA's own."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ncap_jax.ops import pointwise
from tests.support import convolutions
from tests.support.convolutions import assert_equal, draw, primitives

pytestmark = pytest.mark.usefixtures("x64")

ours = partial(convolutions.ours, groups=1)
xla = partial(convolutions.xla, groups=1)


@pytest.mark.parametrize(
    "options", [{}, {"window_strides": (2, 2)}, {"window_strides": (1, 3), "padding": "VALID"}]
)
def test_values_and_derivatives_are_those_of_xla(options):
    x, w = draw(2, 7, 8, 3), draw(1, 1, 3, 5, seed=1)
    f, reference = (partial(g, **options) for g in (ours, xla))
    assert primitives(f, x, w)[-1] == pointwise.NAME
    assert_equal(*convolutions.both_derivatives(f, reference, x, w))


def test_outside_jit_it_is_the_same():
    x, w = draw(2, 7, 8, 3), draw(1, 1, 3, 5, seed=1)
    y, pull = jax.vjp(ours, x, w)
    expected, expected_pull = jax.vjp(xla, x, w)
    assert_equal((y, pull(y)), (expected, expected_pull(expected)))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap(axes):
    x, w = draw(4, 2, 7, 8, 3), draw(4, 1, 1, 3, 5, seed=1)
    x, w = (x if axes[0] == 0 else x[0]), (w if axes[1] == 0 else w[0])
    assert_equal(*convolutions.both_under_vmap(ours, xla, axes, x, w))


@pytest.mark.parametrize("axes", [(0, None), (None, 0)])
def test_vmap_of_the_filters_gradient(axes):
    """Cotangents alone vary, or images alone: one product for all."""
    x, g = draw(4, 2, 7, 8, 3), draw(4, 2, 7, 8, 5, seed=1)
    x, g = (x if axes[0] == 0 else x[0]), (g if axes[1] == 0 else g[0])

    def gradient(convolution, x, g):
        return jax.vjp(partial(convolution, x), draw(1, 1, 3, 5))[1](g)[0]

    found, expected = (jax.vmap(partial(gradient, f), axes)(x, g) for f in (ours, xla))
    assert_equal(found, expected)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 7, 8, 6), (1, 1, 3, 6), {"groups": 2}),
        ((2, 7, 8, 3), (1, 1, 3, 5), {"padding": ((1, 0), (0, 0))}),
        ((2, 7, 8, 3), (1, 1, 3, 5), {"lhs_dilation": (2, 1), "padding": ((0, 0), (0, 0))}),
        ((2, 7, 8, 3), (1, 3, 3, 5), {}),
        ((0, 7, 8, 3), (1, 1, 3, 5), {}),
    ],
)
def test_everything_else_is_the_usual_convolution(x, w, options):
    x, w = draw(*x), draw(*w, seed=1)
    f = partial(ours, **options)
    assert pointwise.NAME not in primitives(f, x, w)


def test_sums_of_bfloat16_are_float32():
    x, w = draw(2, 7, 8, 300).astype(jnp.bfloat16), draw(1, 1, 300, 3, seed=1).astype(jnp.bfloat16)
    found = ours(x, w)
    assert found.dtype == jnp.bfloat16
    exact = xla(x.astype(jnp.float64), w.astype(jnp.float64)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, exact)


def test_accelerators_get_their_own_convolutions():
    """Lowered for a GPU, which needs none: value and both gradients are convolutions."""
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 3), (1, 1, 3, 5)))
    step = jax.jit(jax.grad(lambda x, w: jnp.sum(ours(x, w) ** 2), (0, 1)))
    text = step.trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3
    text = step.trace(x, w).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in text
    assert lax.conv_general_dilated_p.name not in primitives(step, x, w)
