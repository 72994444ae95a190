"""Which parameters are held, by the order in which a network uses them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ncap_jax.finetune.steps import Network
from ncap_jax.winner import freezing
from ncap_jax.zoo import functional
from ncap_jax.zoo.preprocess import Preprocess


class Backwards(nnx.Module):
    """Its layers' names are in another order than their use; one is called inside `jax.jit`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.z = nnx.Linear(3, 4, rngs=rngs)
        self.y = nnx.Linear(4, 4, rngs=rngs, dtype=jnp.bfloat16)
        self.b = nnx.Linear(4, 4, rngs=rngs)
        self.a = nnx.Linear(4, 4, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.z(x.mean((1, 2))))
        x = jax.jit(lambda x, kernel, bias: jax.nn.gelu(x @ kernel + bias))(
            self.y(x), self.b.kernel[...], self.b.bias[...]
        )
        return self.a(x)


@pytest.fixture(scope="module")
def parts():
    module = functional.build_abstractly(Backwards)
    definition, params, state = functional.split(module)
    network = Network(definition, definition, Preprocess("unit", 8), ("backbone", "head"))
    return network, params, state


@pytest.mark.parametrize(
    ("quarters", "held"), [(1, "z"), (2, "zy"), (3, "zyb"), (4, "zyba")], ids=str
)
def test_the_first_quarters_in_the_order_of_use(parts, quarters, held):
    network, params, state = parts
    found = freezing.held_leaves(network, params, state, (8, 8, 3), quarters)
    names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert {name for name, stays in zip(names, found, strict=True) if stays} == set(held)
    assert sum(found) == 2 * quarters


def test_nothing_is_held_unless_asked(parts):
    assert freezing.held_leaves(*parts, (8, 8, 3), 0) == ()
