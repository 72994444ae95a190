"""The functional boundary: batch statistics survive `jit`, and plain `jit` shows why it exists."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import functional


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def features(self, x):
        return self.drop(self.norm(self.dense(x)))


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (16, 3)) + 2.0


def test_batch_statistics_survive_jit(x):
    f, params, state = functional.split(Net(nnx.Rngs(0)))

    @jax.jit
    def step(params, state, x):
        return functional.apply(f, params, state, x, train=True)

    _, new = step(params, state, x)
    expected = 0.5 * state["norm"]["mean"] + 0.5 * jnp.mean(
        x @ params["dense"]["kernel"] + params["dense"]["bias"], axis=0
    )
    np.testing.assert_allclose(new["norm"]["mean"], expected, rtol=1e-5)
    # The random stream moves on as well, so that dropout differs from step to step.
    assert int(new["drop"]["rngs"]["count"]) == int(state["drop"]["rngs"]["count"]) + 1


def test_plain_jit_on_a_module_would_lose_them(x):
    """The trap that `apply` avoids; if this starts to fail, the boundary can be simplified."""
    net = Net(nnx.Rngs(0))
    net.train()
    graphdef, state = nnx.split(net)

    @jax.jit
    def forward(state, x):
        return nnx.merge(graphdef, state).features(x)

    before = np.asarray(net.norm.mean[...])
    forward(state, x)
    np.testing.assert_array_equal(np.asarray(net.norm.mean[...]), before)


def test_inference_is_deterministic_and_changes_nothing(x):
    f, params, state = functional.split(Net(nnx.Rngs(0)))
    one, new = functional.apply(f, params, state, x, train=False)
    two, _ = functional.apply(f, params, state, x, train=False)
    np.testing.assert_array_equal(one, two)
    chex.assert_trees_all_equal(new, state)


def test_merge_copies(x):
    f, params, state = functional.split(Net(nnx.Rngs(0)))
    module = functional.merge(f, params, state)
    module.dense.kernel[...] = jnp.zeros((3, 4))
    assert np.any(params["dense"]["kernel"])


def test_stack_equals_each_alone(x):
    nets = [Net(nnx.Rngs(seed)) for seed in range(3)]
    f, params, state = functional.stack(nets)
    stacked, _ = jax.vmap(lambda p, s: functional.apply(f, p, s, x, train=False))(params, state)
    for net, y in zip(nets, stacked):
        np.testing.assert_allclose(net.features(x), y, rtol=1e-6, atol=1e-6)


def test_a_module_to_fill_has_real_streams_and_no_weights(x):
    net = functional.build_to_fill(lambda: Net(nnx.Rngs(0)), seed=1)
    assert isinstance(net.dense.kernel.get_value(), jax.ShapeDtypeStruct)
    net.dense.kernel.set_value(jnp.ones((3, 4)))
    net.dense.bias.set_value(jnp.ones(4))
    for leaf in (net.norm.scale, net.norm.bias, net.norm.mean, net.norm.var):
        leaf.set_value(jnp.ones(4))
    f, params, state = functional.split(net)
    one, new = functional.apply(f, params, state, x, train=True)
    two, _ = functional.apply(f, params, new, x, train=True)
    assert np.any(one != two)  # dropout moved on


def test_a_builder_that_needs_values_is_run_as_it_is():
    def build():
        net = Net(nnx.Rngs(0))
        if net.dense.kernel[0, 0] > 100:
            raise AssertionError
        return net

    kernel = functional.build_to_fill(build, seed=0).dense.kernel
    np.testing.assert_array_equal(kernel[...], Net(nnx.Rngs(0)).dense.kernel[...])
