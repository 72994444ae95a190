"""Which convolution is computed by which primitive."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ncap_jax.ops import convolutions, depthwise, pointwise
from tests.support.convolutions import draw, ours

GENERAL = lax.conv_general_dilated_p.name


@pytest.mark.parametrize(
    ("channels", "kernel", "groups", "name"),
    [
        (4, (3, 3, 4, 6), 1, GENERAL),
        (4, (3, 3, 2, 6), 2, GENERAL),
        (4, (3, 3, 1, 4), 4, depthwise.NAME),
        (4, (1, 1, 1, 4), 4, depthwise.NAME),
        (4, (1, 1, 4, 6), 1, pointwise.NAME),
    ],
)
def test_each_has_its_primitive_which_reads_as_the_general_one(channels, kernel, groups, name):
    x, w = draw(2, 5, 5, channels), draw(*kernel, seed=1)
    closed = jax.make_jaxpr(lambda x, w: ours(x, w, groups=groups))(x, w)
    (eqn,) = closed.eqns
    assert eqn.primitive.name == name
    general = convolutions.as_general(eqn)
    assert general.primitive is lax.conv_general_dilated_p
    assert general.params["feature_group_count"] == groups
    plain = jax.make_jaxpr(lambda x, w: x + w)(1.0, 2.0).eqns[0]
    assert convolutions.as_general(plain) is plain


@pytest.mark.parametrize(
    "options", [{"preferred_element_type": jnp.float32}, {"rhs_dilation": (2, 2)}]
)
def test_what_the_primitives_do_not_know_is_passed_on(options):
    x, w = draw(2, 5, 5, 4).astype(jnp.float32), draw(1, 1, 4, 6, seed=1).astype(jnp.float32)
    closed = jax.make_jaxpr(lambda x, w: ours(x, w, groups=1, **options))(x, w)
    assert [eqn.primitive.name for eqn in closed.eqns] == [GENERAL]


def test_parameters_are_those_of_the_general_convolution():
    x, w = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 4))
    params = convolutions.general_params((2, 1), ((1, 0), (0, 1)), None, 2, lax.Precision.HIGHEST)
    closed = jax.make_jaxpr(
        lambda x, w: lax.conv_general_dilated(
            x,
            w,
            (2, 1),
            ((1, 0), (0, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
            precision="highest",
        )
    )(x, w)
    expected = dict(closed.eqns[0].params)
    expected["precision"] = expected["precision"][0]  # one for each operand
    assert {name: expected[name] for name in params} == params
