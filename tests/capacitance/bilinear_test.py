"""Weight layers: all-ones weights against the explicit product, gradients against autodiff."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.capacitance import bilinear
from ncap_jax.capacitance.bilinear import Use, Weight

pytestmark = pytest.mark.usefixtures("x64")

# docs/numerics.md: float64, sums of some hundred terms in two orders.
EXACT = 1e-12
Product = Callable[[Array, Array], Array]


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def use_of(product: Product, weight: Array, u: Array, side: int = 1) -> Use:
    """The use that a jaxpr with one product describes."""
    pair = (weight, u) if side == 0 else (u, weight)
    (equation,) = jax.make_jaxpr(product)(*pair).jaxpr.eqns
    name, shape = equation.primitive.name, equation.outvars[0].aval.shape
    return Use(name, equation.params, side, Weight.parameter("w"), weight, u, shape)


def dot(contract: tuple[Any, Any], batch: tuple[Any, Any] = ((), ())) -> Product:
    return lambda x, y: lax.dot_general(x, y, (contract, batch))


def convolve(
    spec: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"), groups: int = 1, **options: Any
) -> Product:
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return partial(
        lax.conv_general_dilated, dimension_numbers=spec, feature_group_count=groups, **options
    )


# name -> (product, shape of the weight, shape of the activation, side of the weight)
USES: dict[str, tuple[Product, tuple[int, ...], tuple[int, ...], int]] = {
    "dense": (dot(((1,), (0,))), (4, 3), (5, 4), 1),
    "weight on the left": (dot(((1,), (1,))), (3, 4), (5, 4), 0),
    "two contractions": (dot(((1, 2), (0, 1))), (2, 3, 4), (5, 2, 3), 1),
    "sequences": (dot(((2,), (0,))), (4, 3), (5, 6, 4), 1),
    "batched over heads": (dot(((2,), (1,)), ((1,), (0,))), (3, 4, 2), (5, 3, 4), 1),
    "batched, on the left": (dot(((2,), (2,)), ((0,), (1,))), (3, 2, 4), (5, 3, 4), 0),
    "convolution": (convolve(), (3, 2, 2, 3), (2, 5, 6, 2), 1),
    "strided": (convolve(window_strides=(2, 3)), (3, 3, 2, 3), (2, 7, 8, 2), 1),
    "padded": (convolve(padding=((2, 0), (-1, 3))), (2, 3, 2, 3), (2, 5, 6, 2), 1),
    "dilated filter": (convolve(rhs_dilation=(2, 1)), (3, 3, 2, 3), (2, 7, 6, 2), 1),
    "dilated image": (
        convolve(lhs_dilation=(2, 1), padding=((1, 1), (1, 0))),
        (3, 2, 2, 3),
        (2, 4, 5, 2),
        1,
    ),
    "grouped": (convolve(groups=2), (3, 3, 2, 6), (2, 5, 6, 4), 1),
    "depthwise": (convolve(groups=4), (3, 3, 1, 8), (2, 5, 6, 4), 1),
    "channels first": (convolve(("NCHW", "OIHW", "NCHW"), groups=2), (6, 2, 3, 3), (2, 4, 5, 6), 1),
    "mixed layouts": (convolve(("NCHW", "HWIO", "NHWC")), (3, 2, 2, 3), (2, 2, 5, 6), 1),
    "one axis": (convolve(("NWC", "WIO", "NWC"), window_strides=(2,)), (3, 2, 4), (2, 9, 2), 1),
}


@pytest.mark.parametrize("name", USES)
def test_a_weight_layer_is_its_product(name):
    product, weight_shape, u_shape, side = USES[name]
    weight, u = draw(*weight_shape), draw(*u_shape, seed=1)
    use = use_of(product, weight, u, side)
    g, t = draw(*use.shape, seed=2), draw(*u_shape, seed=3)

    def by_weight(weight: Array, u: Array) -> Array:
        return product(weight, u) if side == 0 else product(u, weight)

    @jax.jit
    def both() -> tuple[dict[str, Array], dict[str, Array]]:
        ones = jnp.ones_like(weight)
        found = {
            "linear": use.linear(weight, u),
            "ones": use.ones(u),
            "ones_transpose": use.ones_transpose(g),
            "weight_gradient": use.weight_gradient(t, g),
        }
        expected = {
            "linear": by_weight(weight, u),
            "ones": by_weight(ones, u),
            "ones_transpose": jax.vjp(lambda x: by_weight(ones, x), u)[1](g)[0],
            "weight_gradient": jax.vjp(lambda w: by_weight(w, t), weight)[1](g)[0],
        }
        return found, expected

    found, expected = both()
    for key, value in found.items():
        assert value.shape == expected[key].shape
        np.testing.assert_allclose(value, expected[key], rtol=EXACT, atol=EXACT, err_msg=key)


@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_sums_are_at_least_float32(name):
    product, weight_shape, u_shape, side = USES[name]
    weight, u = (draw(*s).astype(jnp.bfloat16) for s in (weight_shape, u_shape))
    use = use_of(product, weight, u, side)
    g = jnp.ones(use.shape, jnp.bfloat16)
    for value in (use.ones(u), use.ones_transpose(g), use.weight_gradient(u, g)):
        assert value.dtype == jnp.float32
    # The layer itself keeps the model's dtype: the states are the model's own.
    assert use.linear(weight, u).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_products_are_taken_in_full_precision(name):
    product, weight_shape, u_shape, side = USES[name]
    use = use_of(product, draw(*weight_shape), draw(*u_shape), side)
    (equation,) = jax.make_jaxpr(use.linear)(use.operand, use.u).jaxpr.eqns
    assert set(equation.params["precision"]) == {lax.Precision.HIGHEST}


def test_depthwise_layers_keep_their_own_primitive():
    weight, u = draw(3, 3, 1, 4), draw(2, 5, 6, 4)
    use = use_of(convolve(groups=4), weight, u)
    (equation,) = jax.make_jaxpr(use.linear)(weight, u).jaxpr.eqns
    assert equation.primitive.name == "depthwise_convolution"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense", True),
        ("weight on the left", False),  # the output is (classes, batch)
        ("sequences", False),  # the output has three axes
        ("two contractions", True),
        ("batched over heads", False),
        ("convolution", False),
    ],
)
def test_a_classifier_is_recognised(name, expected):
    """Lin'(1, g) then is the sum of g over the classes, the same for every input unit."""
    product, weight_shape, u_shape, side = USES[name]
    use = use_of(product, draw(*weight_shape), draw(*u_shape), side)
    assert use.sums_over_classes() == expected
    if expected:
        g = draw(*use.shape, seed=5)
        sums = np.asarray(g.sum(axis=1)).reshape(-1, *[1] * (use.u.ndim - 1))
        np.testing.assert_allclose(use.ones_transpose(g), np.broadcast_to(sums, use.u.shape))


def test_products_that_keep_a_batch_of_the_weight_do_not_sum_over_classes():
    """(units,) by (units, batch): elementwise over a batch dimension of the weight."""
    use = use_of(dot(((), ()), ((1,), (0,))), draw(4), draw(5, 4))
    assert use.shape == (4, 5)
    assert not use.sums_over_classes()


def test_one_parameter_is_a_weight():
    leaves = {"a": draw(2, 3), "b": draw(4)}
    weight = Weight.parameter("a")
    assert weight.keys == ("a",)
    np.testing.assert_array_equal(weight.build(leaves), leaves["a"])
    gradient = draw(2, 3, seed=1)
    (scattered,) = weight.scatter(leaves, gradient).items()
    assert scattered[0] == "a"
    np.testing.assert_array_equal(scattered[1], gradient)


def test_rearranged_parameters_collect_the_gradients_of_their_copies():
    """An array with "a" twice, once transposed, and "b" once."""

    def build(leaves: dict[str, Array]) -> Array:
        return jnp.concatenate([leaves["a"], leaves["a"].T, leaves["b"][None]], axis=0)

    leaves = {"a": draw(3, 3), "b": draw(3), "unrelated": draw(2)}
    gradient = draw(7, 3, seed=1)
    scattered = Weight(("a", "b"), build).scatter(leaves, gradient)
    assert set(scattered) == {"a", "b"}
    np.testing.assert_allclose(scattered["a"], gradient[:3] + gradient[3:6].T, rtol=1e-15)
    np.testing.assert_array_equal(scattered["b"], gradient[6])


def test_gradients_of_narrow_parameters_stay_wide():
    """A bfloat16 parameter collects float32 gradients, not sums that are rounded to 8 bits."""
    leaves = {"a": jnp.ones(3, jnp.bfloat16)}
    weight = Weight(("a",), lambda leaves: jnp.concatenate([leaves["a"]] * 2))
    gradient = jnp.asarray([1, 2, 3, 1e-3, 1e-3, 1e-3], jnp.float32)
    (found,) = weight.scatter(leaves, gradient).values()
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, gradient[:3] + gradient[3:])


def test_the_primitives_are_those_of_weight_layers():
    assert set(bilinear.PRIMITIVES) == {"dot_general", "conv_general_dilated"}
