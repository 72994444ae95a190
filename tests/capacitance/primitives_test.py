"""How equations of a jaxpr are told apart, evaluated and located."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.capacitance import primitives

X = jnp.linspace(0.1, 0.9, 6, dtype=jnp.float32).reshape(2, 3)


def equations(function: Callable[..., Any], *arguments: Any) -> list[jex.JaxprEqn]:
    return jax.make_jaxpr(function)(*arguments).jaxpr.eqns


def only(function: Callable[..., Any], *arguments: Any) -> jex.JaxprEqn:
    """The one equation of a function."""
    (equation,) = equations(function, *arguments)
    return equation


def jacobian(function: Callable[[Array], Array]) -> np.ndarray:
    return np.asarray(jax.jacrev(function)(X)).reshape(-1, X.size)


ELEMENTWISE: dict[str, Callable[[Array], Array]] = {
    "exp": jnp.exp,
    "mul": lambda x: x * x,
    "div": lambda x: 1 / x,
    "max": lambda x: lax.max(x, x * 2),
    "select_n": lambda x: lax.select(x > 0, x, x * 2),
    "integer_pow": lambda x: x**3,
    "clamp": lambda x: lax.clamp(jnp.float32(0), x, jnp.float32(0.5)),
    "erf": lax.erf,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_primitives_have_a_diagonal_jacobian(name):
    function = ELEMENTWISE[name]
    names = {equation.primitive.name for equation in equations(function, X)}
    assert name in names
    assert names <= primitives.ELEMENTWISE
    by_input = jacobian(function)
    np.testing.assert_array_equal(by_input, np.diag(np.diag(by_input)))


SHIFTS: dict[str, Callable[[Array], Array]] = {
    "add": lambda x: x + 2,
    "sub": lambda x: x - 2,
    "convert_element_type": lambda x: x.astype(jnp.bfloat16),
    "copy": lambda x: lax.copy_p.bind(x),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_have_the_identity_as_jacobian(name):
    assert only(SHIFTS[name], X).primitive.name == name
    assert name in primitives.SHIFTS <= primitives.ELEMENTWISE
    np.testing.assert_array_equal(jacobian(SHIFTS[name]), np.eye(X.size))


def test_what_scales_is_not_a_shift():
    for function in (lambda x: x * 2, lambda x: x / 2, lambda x: -x, lambda x: lax.max(x, 0 * x)):
        assert equations(function, X)[-1].primitive.name not in primitives.SHIFTS


REARRANGEMENTS: dict[str, Callable[[Array], Array]] = {
    "transpose": lambda x: x.T,
    "reshape": lambda x: x.reshape(3, 2),
    "rev": lambda x: lax.rev(x, (1,)),
    "slice": lambda x: lax.slice(x, (0, 1), (2, 3)),
    "pad": lambda x: lax.pad(x, jnp.float32(0), ((1, 0, 1), (0, 2, 0))),
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (4, 2, 3), (1, 2)),
    "concatenate": lambda x: lax.concatenate([x, x], 0),
    "squeeze": lambda x: lax.squeeze(lax.expand_dims(x, (0,)), (0,)),
}


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_rearrangements_copy_entries(name):
    names = {equation.primitive.name for equation in equations(REARRANGEMENTS[name], X)}
    assert name in names
    assert names <= primitives.REARRANGEMENTS <= primitives.LINEAR
    by_input = jacobian(REARRANGEMENTS[name])
    assert set(np.unique(by_input)) <= {0, 1}
    assert by_input.sum(axis=1).max() == 1  # every entry comes from one entry at most


def test_elementwise_bodies_are_elementwise():
    """Whole calls count, if all arrays inside have one shape."""
    assert primitives.is_elementwise(only(jax.jit(lambda x: jnp.tanh(x) * x), X))
    assert primitives.is_elementwise(only(jax.nn.relu, X))  # a custom derivative
    assert not primitives.is_elementwise(only(jax.jit(lambda x: x @ x.T @ x), X))
    assert not primitives.is_elementwise(only(jax.jit(lambda x: (x + 1, x)), X))
    assert not primitives.is_elementwise(only(lambda x: x.sum(axis=0), X))
    assert not primitives.is_elementwise(only(jax.jit(lambda x: x[:1] * 2), X))
    assert not primitives.is_elementwise(only(jax.jit(lax.mul), X, jnp.float32(2)))


def test_scan_operands_are_told_apart():
    kernel, rows = jnp.ones((3, 3), jnp.float32), jnp.ones((5, 3), jnp.float32)

    def scan(kernel: Array, carry: tuple[Array, Array], rows: Array) -> Any:
        def step(carry: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], Array]:
            x, count = carry
            return (x @ kernel + row, count + 1), x

        return lax.scan(step, carry, rows)

    equation = equations(scan, kernel, (rows[0], jnp.int32(0)), rows)[-1]
    assert equation.primitive.name == "scan"
    assert primitives.scan_sizes(equation) == (1, 2)


def user_code(x: Array) -> Array:
    return jnp.sin(x)


def test_source_locations_name_the_users_code():
    equation = only(user_code, X)
    found = primitives.source_location(equation)
    line = user_code.__code__.co_firstlineno + 1
    assert found == f"user_code ({__file__}:{line})"


def test_library_code_is_located_by_the_call():
    """Equations inside a library's function may lack a line of the user's."""
    library = only(jax.jit(jnp.sin), X)
    assert primitives.source_location(library) == "the model"
    assert "user_code" in primitives.source_location(library, only(user_code, X))
