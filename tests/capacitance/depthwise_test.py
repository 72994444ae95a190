"""The depthwise primitive against XLA's own convolution."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from ncap_jax.capacitance import depthwise, network

pytestmark = pytest.mark.usefixtures("x64")

# docs/numerics.md: float64, sums of some hundred terms in two orders.
EXACT = 1e-12
CASES = {
    "same": {},
    "strided": {"window_strides": (2, 2)},
    "uneven": {"window_strides": (2, 1), "padding": ((1, 2), (0, 3)), "kernel": (5, 2)},
    "valid": {"padding": "VALID", "kernel": (2, 3)},
    "cropped": {"padding": ((-1, 1), (0, -2))},
    "dilated": {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 0)), "window_strides": (1, 2)},
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def applied(convolution, x, w, **options):
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


def with_gradients(convolution, x, w, seed=9):
    y, pull = jax.vjp(convolution, x, w)
    return y, *pull(draw(*y.shape, seed=seed))


def primitives(function, *arguments):
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns]


def assert_equal(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_xla(case):
    options = dict(CASES[case])
    x, w = draw(2, 7, 8, 3), draw(*options.pop("kernel", (3, 3)), 1, 3, seed=1)
    f, reference = (partial(g, **options) for g in (ours, xla))
    assert primitives(f, x, w) == [depthwise.NAME]
    assert_equal(with_gradients(f, x, w), with_gradients(reference, x, w))
    assert_equal(with_gradients(jax.jit(f), x, w), with_gradients(reference, x, w))
    check_grads(f, (x, w), order=2)


@pytest.mark.parametrize("batched", ["both", "images", "filters"])
def test_vmap(batched):
    x, w = draw(4, 2, 7, 8, 3), draw(4, 3, 3, 1, 3, seed=1)
    x, w = (x[0] if batched == "filters" else x), (w[0] if batched == "images" else w)
    axes = (None if batched == "filters" else 0, None if batched == "images" else 0)

    def both(convolution):
        return jax.vmap(partial(with_gradients, convolution), in_axes=axes)(x, w)

    found = both(partial(ours, window_strides=(2, 2)))
    assert_equal(found, both(partial(xla, window_strides=(2, 2))))


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


def test_whole_networks_see_the_weight_layer_that_it_is():
    """Written with either, a network has the same degrees and beta_eff."""
    kernels = {
        "first": draw(2, 4),
        "depthwise": draw(3, 3, 1, 4, seed=1),
        "pointwise": draw(1, 1, 4, 5, seed=2),
        "second": draw(3, 3, 1, 5, seed=3),
        "dense": draw(5, 3, seed=4),
    }

    def apply(convolution, params, constants, x):
        del constants
        x = jnp.tanh(jnp.tensordot(x, params["first"], 1))
        x = jnp.tanh(applied(convolution, x, params["depthwise"], window_strides=(2, 2)))
        x = jnp.tanh(jnp.tensordot(x, params["pointwise"][0, 0], 1))
        x = jnp.tanh(applied(convolution, x, params["second"]))
        return jnp.tensordot(x.mean((1, 2)), params["dense"], 1)

    x, labels = draw(6, 8, 8, 2, seed=5), jnp.arange(6) % 3
    found, wanted = (
        network.measure(partial(apply, f), kernels, {}, x, labels, every_edge=True)
        for f in (depthwise.convolution, lax.conv_general_dilated)
    )
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=EXACT)
