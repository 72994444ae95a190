"""The functional boundary: batch statistics survive `jit`, equal modules share programs."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import functional
from tests.support.compilations import compilations


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation: Callable[..., Any] = nnx.relu):
        self.activation = activation
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.drop(self.norm(self.dense(x)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * self.features(x)


@pytest.fixture
def x() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (16, 3)) + 2.0


def test_batch_statistics_survive_jit(x: jax.Array):
    f, params, state = functional.split(Net(nnx.Rngs(0)))

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array) -> Any:
        return functional.apply(f, params, state, x, train=True)

    _, new = step(params, state, x)
    expected = 0.5 * state["norm"]["mean"] + 0.5 * jnp.mean(
        x @ params["dense"]["kernel"] + params["dense"]["bias"], axis=0
    )
    np.testing.assert_allclose(new["norm"]["mean"], expected, rtol=1e-5)
    # The random stream moves on as well, so that dropout differs from step to step.
    assert int(new["drop"]["rngs"]["count"]) == int(state["drop"]["rngs"]["count"]) + 1


def test_plain_jit_on_a_module_would_lose_them(x: jax.Array):
    """The trap that `apply` avoids; if this starts to fail, the boundary can be simplified."""
    net = Net(nnx.Rngs(0))
    net.train()
    graphdef, state = nnx.split(net)

    @jax.jit
    def forward(state: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state).features(x)

    before = np.asarray(net.norm.mean[...])
    forward(state, x)
    np.testing.assert_array_equal(np.asarray(net.norm.mean[...]), before)


def test_inference_is_deterministic_and_changes_nothing(x: jax.Array):
    f, params, state = functional.split(Net(nnx.Rngs(0)))
    one, new = functional.apply(f, params, state, x, train=False)
    two, _ = functional.apply(f, params, state, x, train=False)
    np.testing.assert_array_equal(one, two)
    chex.assert_trees_all_equal(new, state)


def test_merge_copies(x: jax.Array):
    f, params, state = functional.split(Net(nnx.Rngs(0)))
    module = functional.merge(f, params, state)
    module.dense.kernel[...] = jnp.zeros((3, 4))
    assert np.any(params["dense"]["kernel"])


class Plain(nnx.Module):
    """No random stream of its own."""

    def __init__(self, rngs: nnx.Rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.norm(self.dense(x))


def test_drawn_modules_are_those_that_are_built_one_by_one(x: jax.Array):
    keys = [jax.random.key(seed) for seed in range(3)]
    f, params, state = functional.draw(Plain, keys)
    stacked, _ = jax.vmap(lambda p, s: functional.apply(f, p, s, x, train=False))(params, state)
    for key, y in zip(keys, stacked):
        net = Plain(nnx.Rngs(key))
        net.eval()
        np.testing.assert_allclose(net.features(x), y, rtol=1e-6, atol=1e-6)


def test_equal_builders_draw_by_one_program():
    functional.draw(Plain, [jax.random.key(0)])
    with compilations() as programs:
        functional.draw(Plain, [jax.random.key(1), jax.random.key(2)])
    assert "jit(_draw)" not in programs


def test_a_module_to_fill_has_real_streams_and_no_weights(x: jax.Array):
    net = functional.build_to_fill(Net, seed=1)
    assert isinstance(net.dense.kernel.get_value(), jax.ShapeDtypeStruct)
    net.dense.kernel.set_value(jnp.ones((3, 4)))
    net.dense.bias.set_value(jnp.ones(4))
    for leaf in (net.norm.scale, net.norm.bias, net.norm.mean, net.norm.var):
        leaf.set_value(jnp.ones(4))
    f, params, state = functional.split(net)
    one, new = functional.apply(f, params, state, x, train=True)
    two, _ = functional.apply(f, params, new, x, train=True)
    assert np.any(one != two)  # dropout moved on


def test_a_module_of_shapes_has_the_definition_of_a_drawn_one():
    module = functional.build_abstractly(Net)
    assert isinstance(module.dense.kernel.get_value(), jax.ShapeDtypeStruct)
    assert functional.split(module)[0] is definition_of(0)


def test_building_abstractly_never_asks_for_a_traced_sharding(monkeypatch: pytest.MonkeyPatch):
    """JAX answers with a description of all that was traced so far: quadratic in depth."""
    asked = []
    sharding = jax.core.Tracer.sharding

    def spy(tracer: Any) -> Any:
        asked.append(tracer)
        return sharding.fget(tracer)

    monkeypatch.setattr(jax.core.Tracer, "sharding", property(spy))
    functional.build_abstractly(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    assert not asked
    nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    assert asked, "Flax no longer does this: build_abstractly can become a plain nnx.eval_shape"


def test_a_builder_that_needs_values_is_run_as_it_is():
    def build(rngs: nnx.Rngs) -> Net:
        net = Net(rngs)
        if net.dense.kernel[0, 0] > 100:
            raise AssertionError
        return net

    kernel = functional.build_to_fill(build, seed=0).dense.kernel
    np.testing.assert_array_equal(kernel[...], Net(nnx.Rngs(0)).dense.kernel[...])


def definition_of(seed: int, activation: Callable[..., Any] = nnx.relu) -> functional.Functional:
    return functional.split(Net(nnx.Rngs(seed), activation))[0]


def test_equal_modules_have_one_definition():
    first, second = definition_of(0), definition_of(1)
    assert first is second
    other = definition_of(0, nnx.gelu)
    assert other != first
    assert other is definition_of(2, nnx.gelu)


def test_definitions_are_compared_by_value():
    first = definition_of(0)
    twin = functional.Functional(copy.copy(first.train), copy.copy(first.inference))
    assert twin is not first
    assert twin == first
    assert hash(twin) == hash(first)
    assert functional.shared(twin) is first
    assert functional.Functional(first.inference, first.train) != first
    assert first != "a definition"


def doubled(x: jax.Array) -> jax.Array:
    return 2 * x


def test_a_definition_in_another_process_is_the_same_value():
    first = definition_of(0, doubled)
    again = pickle.loads(pickle.dumps(first))
    assert again == first
    assert functional.shared(again) is first


def test_hash_and_comparison_do_not_look_inside_again(monkeypatch: pytest.MonkeyPatch):
    first = definition_of(0)

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("the graph was looked at")

    monkeypatch.setattr(nnx.GraphDef, "__hash__", forbidden)
    monkeypatch.setattr(nnx.GraphDef, "__eq__", forbidden)
    assert {first: 1}[first] == 1


def test_definitions_out_of_use_are_forgotten():
    """What a definition holds on to (a model of another library) is freed with it."""

    class Held:
        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    held = Held()
    alive = weakref.ref(held)
    definition = definition_of(0, held)
    assert functional.shared(definition) is definition
    del held
    gc.collect()
    assert alive() is not None
    del definition
    gc.collect()
    assert alive() is None


def test_equal_modules_share_a_compiled_program(x: jax.Array):
    traces = []

    @partial(jax.jit, static_argnames="definition")
    def features(
        definition: functional.Functional, params: Any, state: Any, x: jax.Array
    ) -> jax.Array:
        traces.append(definition)
        return functional.apply(definition, params, state, x, train=False)[0]

    for seed in range(3):
        net = Net(nnx.Rngs(seed))
        y = features(*functional.split(net), x)
        np.testing.assert_allclose(y, net.features(x), rtol=1e-6, atol=1e-6)
    assert len(traces) == 1


def test_a_module_as_a_function(x: jax.Array):
    net = Net(nnx.Rngs(0))
    net.train()
    before = np.asarray(net.norm.mean[...])
    function, params, state = functional.as_function(net)
    assert function == functional.as_function(Net(nnx.Rngs(1)))[0]
    assert function != functional.as_function(net, "features")[0]
    y = jax.jit(lambda f, *arrays: f(*arrays), static_argnums=0)(function, params, state, x)
    # The module keeps its mode and its arrays; the function runs in inference mode.
    assert not net.drop.deterministic
    np.testing.assert_array_equal(net.norm.mean[...], before)
    net.eval()
    np.testing.assert_allclose(y, net(x), rtol=1e-6, atol=1e-6)
    features, *_ = functional.as_function(net, "features")
    np.testing.assert_allclose(2 * features(params, state, x), y, rtol=1e-6, atol=1e-6)
