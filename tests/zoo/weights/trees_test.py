"""Trees of arrays by name: what the file of weights holds, and nothing else."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from ncap_jax.zoo import functional
from ncap_jax.zoo.weights import store, trees


class Net(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])


def test_names_are_those_of_the_store():
    module = Net(rngs=nnx.Rngs(0))
    expected = store.state_arrays(module)
    found = trees.named(*functional.split(module))
    assert {name: leaf.tolist() for name, leaf in found.items()} == {
        name: leaf.tolist() for name, leaf in expected.items()
    }
    assert sorted(found) == [f"layers.0.{name}" for name in ("bias", "mean", "scale", "var")]


def test_shapes_have_the_same_names():
    abstract = functional.build_to_fill(Net, 0)
    found = trees.named(*functional.split(abstract))
    assert sorted(found) == sorted(store.state_arrays(Net(rngs=nnx.Rngs(0))))
    assert found["layers.0.mean"].shape == (4,)


def test_renewed_leaves_the_rest_as_it_is():
    definition, params, state = functional.split(functional.build_to_fill(Net, 0))
    arrays = {name: np.full(4, 2.0) for name in trees.named(definition, params, state)}
    new = trees.renewed(state, arrays)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert new["layers"][0]["mean"].tolist() == [2.0] * 4
    assert new["layers"][1] == state["layers"][1]
