"""A jaxpr's equations are evaluated one by one, calls looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.ops import equations

X = jnp.linspace(0.1, 0.9, 6, dtype=jnp.float32).reshape(2, 3)


def only(function: Callable[..., Any], *arguments: Any) -> jex.JaxprEqn:
    """The one equation of a function."""
    (equation,) = jax.make_jaxpr(function)(*arguments).jaxpr.eqns
    return equation


def test_inner_jaxprs_evaluate_to_the_call():
    for function in (jax.jit(jnp.sin), jax.nn.relu, jax.checkpoint(jnp.sin)):
        inner = equations.inner_jaxpr(only(function, X))
        assert isinstance(inner, jex.ClosedJaxpr)
        (found,) = jex.jaxpr_as_fun(inner)(X)
        np.testing.assert_array_equal(found, function(X))


BOUND: dict[str, Callable[[Array], Any]] = {
    "one result": jnp.sin,
    "parameters": lambda x: lax.slice(x, (0, 1), (2, 3)),
    "two results": lambda x: lax.split(x, (1, 2), 1),
    "a call": jax.jit(lambda x: jnp.sin(x) + 1),
}


@pytest.mark.parametrize("name", BOUND)
def test_bind_evaluates_an_equation(name):
    function = BOUND[name]
    found = equations.bind(only(function, X), X)
    for value, expected in zip(found, jax.tree.leaves(function(X)), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_bind_evaluates_custom_derivatives_with_their_rule():
    equation = only(jax.nn.relu6, X)
    (slope,) = jax.vjp(lambda x: equations.bind(equation, x)[0], X * 20)[1](X)
    np.testing.assert_array_equal(slope, np.where(X * 20 < 6, X, 0))
