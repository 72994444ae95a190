"""The convolution whose gradient by the filter is summed over parts, against XLA's own."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ncap_jax.ops import spatial
from tests.support import convolutions
from tests.support.convolutions import assert_equal, draw, primitives

pytestmark = pytest.mark.usefixtures("x64")

ours = partial(convolutions.ours, groups=1)
xla = partial(convolutions.xla, groups=1)
# Bytes of an image in most tests here.
IMAGE = 7 * 8 * 5 * 8


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Images of the tests count as large; parts hold two of them."""
    monkeypatch.setattr(spatial, "LEAST", IMAGE)
    monkeypatch.setattr(spatial, "PART", 2 * IMAGE)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [{}, {"window_strides": (2, 1)}, {"padding": "VALID"}, {"padding": ((2, 0), (0, 1))}],
)
def test_values_and_derivatives_are_those_of_xla(count, options):
    x, w = draw(count, 7, 8, 5), draw(3, 2, 5, 4, seed=1)
    f, reference = (partial(g, **options) for g in (ours, xla))
    assert primitives(f, x, w) == [spatial.NAME]
    assert_equal(*convolutions.both_derivatives(f, reference, x, w))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap(axes):
    x, w = draw(4, 2, 7, 8, 5), draw(4, 3, 3, 5, 4, seed=1)
    x, w = (x if axes[0] == 0 else x[0]), (w if axes[1] == 0 else w[0])
    assert_equal(*convolutions.both_under_vmap(ours, xla, axes, x, w))


def test_outside_jit_it_is_the_same():
    x, w = draw(3, 7, 8, 5), draw(3, 3, 5, 4, seed=1)
    y, pull = jax.vjp(ours, x, w)
    expected, expected_pull = jax.vjp(xla, x, w)
    assert_equal((y, pull(y)), (expected, expected_pull(expected)))


def convolutions_of_a_gradient(images: int, platform: str) -> int:
    """How many there are in a lowered program of value and both gradients."""
    shapes = (images, 7, 8, 5), (3, 3, 5, 4)
    step = jax.jit(jax.grad(lambda x, w: jnp.sum(ours(x, w) ** 2), (0, 1)))
    traced = step.trace(*(jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes))
    return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")


@pytest.mark.parametrize(("images", "parts"), [(2, 1), (4, 2), (5, 3)])
def test_the_filters_gradient_has_a_convolution_for_each_part(images, parts):
    assert convolutions_of_a_gradient(images, "cpu") == 2 + parts
    assert convolutions_of_a_gradient(images, "cuda") == 3  # value, and a gradient each


def test_there_are_no_more_parts_than_a_program_should_have(monkeypatch):
    monkeypatch.setattr(spatial, "MOST_PARTS", 2)
    assert convolutions_of_a_gradient(9, "cpu") == 2 + 2


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 7, 8, 6), (3, 3, 3, 6), {"groups": 2}),
        ((2, 7, 8, 5), (3, 3, 5, 4), {"lhs_dilation": (2, 1), "padding": ((0, 0), (0, 0))}),
        ((1, 7, 7, 5), (3, 3, 5, 5), {}),
    ],
    ids=["grouped", "dilated", "small"],
)
def test_everything_else_is_the_usual_convolution(x, w, options):
    f = partial(ours, **options)
    assert primitives(f, draw(*x), draw(*w, seed=1)) == [lax.conv_general_dilated_p.name]


def test_numbers_whose_parts_would_be_rounded_are_not_divided():
    x, w = (a.astype(jnp.bfloat16) for a in (draw(9, 7, 8, 5), draw(3, 3, 5, 4)))
    assert primitives(ours, x, w) == [lax.conv_general_dilated_p.name]
