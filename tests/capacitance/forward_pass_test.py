"""What a recorded forward pass knows of its values and of its end."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.capacitance import trace
from ncap_jax.capacitance.bilinear import Weight
from ncap_jax.capacitance.forward_pass import ForwardPass, Value

A, B = (jnp.asarray(np.random.default_rng(s).normal(size=(3, 3)), jnp.float32) for s in (0, 1))
X = jnp.ones((2, 3), jnp.float32)


def test_a_value_names_all_parameters_it_is_made_of():
    assert Value(X).parameters == frozenset()
    assert Value(X, mixed=frozenset({"a"})).parameters == {"a"}
    weight = Weight(("b", "c"), lambda leaves: leaves["b"])
    assert Value(X, weight=weight, mixed=frozenset({"a"})).parameters == {"a", "b", "c"}


def recorded(head: Callable[[Array, Array], Array]) -> ForwardPass:
    """A forward pass of two layers, `head(activation, kernel)` being the second."""
    return trace.record(lambda p, _, x: head(jnp.tanh(x @ p[0]), p[1]), (A, B), None, X)


HEADS: dict[str, tuple[Callable[[Array, Array], Array], bool]] = {
    "a product": (lambda x, w: x @ w, True),
    "with an offset": (lambda x, w: x @ w + 1.5, True),
    "with an offset of each sample": (lambda x, w: x @ w + jnp.ones((2, 1), jnp.float32), True),
    "scaled": (lambda x, w: (x @ w) * 2, False),
    "activated": (lambda x, w: jnp.tanh(x @ w), False),
    "centred": (lambda x, w: (y := x @ w) - y.mean(axis=1, keepdims=True), False),
    "log-softmax": (lambda x, w: jax.nn.log_softmax(x @ w), False),
    "rearranged": (lambda x, w: (x @ w)[:, ::-1], False),
    "with a skip": (lambda x, w: x @ w + x, False),
    "read twice": (lambda x, w: (lambda y: y + jnp.tanh(y).sum())(x @ w), False),
}


@pytest.mark.parametrize("name", HEADS)
def test_only_a_plain_last_layer_is_the_logits(name):
    head, expected = HEADS[name]
    forward_pass = recorded(head)
    first, last = (node for node in forward_pass.graph.nodes if node.use is not None)
    assert forward_pass.ends_in(last) == expected
    assert not forward_pass.ends_in(first)


def test_layers_that_do_not_sum_over_classes_do_not_count():
    """One weight per unit: a dot product that contracts nothing, with units before samples."""

    def apply(params: tuple[Array, Array], constants: None, x: Array) -> Array:
        del constants
        return lax.dot_general(x, params[0], (((), ()), ((1,), (0,))))

    forward_pass = trace.record(apply, (A[0],), None, X)
    (layer,) = (node for node in forward_pass.graph.nodes if node.use is not None)
    assert forward_pass.logits.stream.node is layer
    assert not forward_pass.ends_in(layer)


def test_every_layers_result_is_on_record():
    forward_pass = recorded(lambda x, w: x @ w)
    uses = [node.use for node in forward_pass.graph.nodes if node.use is not None]
    assert list(forward_pass.outputs) == uses
    assert forward_pass.outputs[uses[-1]] is forward_pass.logits
    np.testing.assert_allclose(forward_pass.logits.primal, jnp.tanh(X @ A) @ B, rtol=1e-6)
