"""A function in operations that converters know has the values of the function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, export, lax

from ncap_jax.ops import depthwise, pooling
from ncap_jax.ops.convolutions import convolution
from ncap_jax.ops.equations import INLINE
from ncap_jax.zoo.portable import portable

X = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 1, 3)).astype(np.float32)
SHAPE = jax.ShapeDtypeStruct(X.shape, X.dtype)


def filtered(x: Array) -> Array:
    return convolution(
        x, jnp.asarray(KERNEL), (1, 1), "SAME", feature_group_count=3,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def maximum(x: Array) -> Array:
    return pooling.max_pool(x, 3, 2, "SAME")


def mean(x: Array) -> Array:
    return pooling.average_pool(x, 3, 1, "SAME")


def channel_maximum(x: Array) -> Array:
    """Windows over channels, which no pooling of images has."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 1, 3), (1, 1, 1, 3), "VALID")


def padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=-jnp.inf)


def cut(x: Array) -> Array:
    return lax.pad(x, jnp.float32(0), ((0, 0, 0), (-1, 2, 1), (0, 0, 0), (0, 0, 0)))


FUNCTIONS: dict[str, Callable[[Array], Any]] = {
    "depthwise": filtered,
    "maximum": maximum,
    "mean": mean,
    "channels": channel_maximum,
    "padded": padded,
    "cut": cut,
    "calls": jax.jit(lambda x: {"y": jax.nn.relu6(jnp.sum(x, (1, 2))), "x": x}),
}


def names(function: Callable[..., Any]) -> Iterator[str]:
    """The operations of a function, calls looked into."""
    stack = [jax.make_jaxpr(function)(X).jaxpr]
    while stack:
        for eqn in stack.pop().eqns:
            yield eqn.primitive.name
            stack += [
                getattr(value, "jaxpr", value)
                for value in eqn.params.values()
                if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr)
            ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_the_function(name: str):
    function = FUNCTIONS[name]
    found = jax.jit(portable(function, SHAPE))(X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, function(X)
    )


def test_the_operations_are_those_that_converters_know(monkeypatch: pytest.MonkeyPatch):
    """Converters put their own in the place of Flax's pooling and JAX's padding."""
    called: list[str] = []

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    def function(x: Array) -> Array:
        return jax.jit(mean)(jax.nn.relu(maximum(filtered(x)))) + mean(maximum(x))

    assert depthwise.NAME in names(function)
    plain = portable(function, SHAPE)
    for module, name in ((nnx, "max_pool"), (nnx, "avg_pool"), (jnp, "pad")):
        watch(module, name)
    assert {"conv_general_dilated"} <= {*names(plain)}
    assert {*called} == {"max_pool", "avg_pool", "pad"}
    assert depthwise.NAME not in names(plain)
    called.clear()
    assert not INLINE & {*names(portable(jax.jit(jax.nn.relu), SHAPE))}


def test_what_does_not_depend_on_the_arguments_is_computed_at_once():
    scale, offset = np.ones(3, np.float32), np.zeros(3, np.float32)

    def normalised(x: Array) -> Array:
        return x * lax.rsqrt(jnp.asarray(scale) + 1e-3) + (jnp.asarray(offset) - 2 * scale)

    assert set(names(portable(normalised, SHAPE))) <= {"mul", "add", "broadcast_in_dim"}


def test_the_batch_may_have_any_size():
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *X.shape[1:]), X.dtype)
    found = jax.eval_shape(portable(lambda x: maximum(filtered(x)), shape), shape)
    assert found.shape == (batch, 3, 3, 3)
