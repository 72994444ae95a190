"""Models of other kinds as candidates: the same numbers, the same life as a model of the zoo."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import find_models, functional, load_model
from ncap_jax.zoo.weights import store
from tests.small import SmallNet, small_config, small_digits


class LinenNet(linen.Module):
    """Convolution, batch norm, dropout and a classifier that has to go."""

    widths: Any = (12,)
    dtype: Any = None

    def setup(self):
        self.conv = linen.Conv(self.widths[0], (4, 4), strides=4, use_bias=False, dtype=self.dtype)
        self.norm = linen.BatchNorm(momentum=0.9, dtype=self.dtype)
        self.drop = linen.Dropout(0.2)
        self.head = linen.Dense(10)

    def maps(self, x, train: bool):
        x = linen.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.drop(x, deterministic=not train)

    def __call__(self, x, train: bool = False):
        return self.head(jnp.mean(self.maps(x, train), axis=(1, 2)))

    def plain(self, x):
        return jnp.mean(self.conv(x), axis=(1, 2))

    def pixels(self, x):
        return x[0, 0, 0]


NET = LinenNet([12])  # a list: Linen modules are not always hashable


@pytest.fixture(scope="module")
def variables():
    return NET.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (5, 8, 8, 3)) + 0.5


def linen_spec(variables, **changes):
    options = {"name": "linen", "input_size": 8, "method": "maps", **changes}
    return ncap.from_linen(NET, variables, **options)


def test_linen_features_are_the_modules_own(variables, x):
    spec = linen_spec(variables)
    assert (spec.feature_width, spec.parameters) == (12, 4 * 4 * 3 * 12 + 24)
    expected = NET.apply(variables, x, train=False, method="maps").mean(axis=(1, 2))
    np.testing.assert_array_equal(load_model(spec).features(x), expected)


def test_linen_training_mode_moves_the_statistics(variables, x):
    definition, params, state = functional.split(load_model(linen_spec(variables)))
    apply = jax.jit(functional.apply, static_argnums=0, static_argnames=("train",))
    first, moved = apply(definition, params, state, x, train=True)
    second, _ = apply(definition, params, moved, x, train=True)
    _, expected = NET.apply(
        variables,
        x,
        train=True,
        method="maps",
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )
    # One fused program against single operations, float32.
    np.testing.assert_allclose(
        moved["state"]["batch_stats"]["norm"]["mean"],
        expected["batch_stats"]["norm"]["mean"],
        rtol=1e-6,
        atol=1e-7,
    )
    assert np.any(first != second), "dropout draws afresh every step"
    _, same = apply(definition, params, state, x, train=False)
    chex.assert_trees_all_equal(same, state)


def test_linen_gradients_reach_every_parameter(variables, x):
    definition, params, state = functional.split(load_model(linen_spec(variables)))

    def loss(params):
        return jnp.sum(functional.apply(definition, params, state, x, train=True)[0] ** 2)

    gradients = jax.tree.leaves(jax.grad(loss)(params))
    assert len(gradients) == 3
    assert all(np.any(g != 0) for g in gradients)


def test_linen_without_variables_is_for_runs_from_scratch():
    spec = linen_spec(None)
    drawn = load_model(spec, weights=None, seed=3)
    other = load_model(spec, weights=None, seed=4)
    assert np.any(drawn.params["conv"]["kernel"][...] != other.params["conv"]["kernel"][...])
    with pytest.raises(errors.WeightsError, match="no pretrained weights"):
        load_model(spec)


def test_linen_runs_in_the_dtype_of_the_run(variables, x):
    model = load_model(linen_spec(variables), dtype=jnp.bfloat16)
    assert model.features(x.astype(jnp.bfloat16)).dtype == jnp.float32  # averages are
    assert store.state_arrays(model)["params.conv.kernel"].dtype == np.float32
    plain = load_model(linen_spec(variables, method=LinenNet.plain), dtype=jnp.bfloat16)
    assert plain.features(x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"method": "features"}, errors.ModelError, "no method 'features'"),
        ({"method": "pixels"}, errors.ModelError, r"returns \(3,\)"),
        ({"preprocessing": "pytorch"}, errors.ConfigError, "torch"),
    ],
)
def test_unusable_linen_modules_are_refused(variables, changes, error, match):
    with pytest.raises(error, match=match):
        linen_spec(variables, **changes)


def test_linen_variables_must_fit(variables):
    without = {"params": variables["params"]}
    with pytest.raises(errors.WeightsError, match="2 unfilled"):
        linen_spec(without)
    with pytest.raises(errors.WeightsError, match=r"\(4, 4, 3, 12\) in the file"):
        ncap.from_linen(LinenNet((6,)), variables, name="narrow", input_size=8, method="maps")


def test_a_module_in_memory(x):
    module = SmallNet(rngs=nnx.Rngs(5))
    module.eval()
    spec = ncap.from_module(module, name="mine", input_size=8)
    np.testing.assert_array_equal(load_model(spec).features(x), module.features(x))
    renamed = ncap.from_module(module, name="mine", input_size=8, method="conv")
    np.testing.assert_array_equal(load_model(renamed).features(x), module.conv(x).mean(axis=(1, 2)))
    assert (
        spec.sha256 != ncap.from_module(SmallNet(rngs=nnx.Rngs(6)), name="b", input_size=8).sha256
    )
    with pytest.raises(errors.ModelError, match="no method 'embed'"):
        ncap.from_module(module, name="mine", input_size=8, method="embed")
    with pytest.raises(errors.ModelError, match="draw it afresh"):
        load_model(spec, weights=None)


def test_adapted_models_are_ranked_like_any_other(variables, tmp_path):
    module = SmallNet(rngs=nnx.Rngs(0))
    before = store.state_arrays(module)
    specs: list[ModelSpec] = [
        linen_spec(variables),
        ncap.from_module(module, name="mine", input_size=8),
    ]
    ranking = ncap.rank_models(
        specs,
        small_digits(train=40, validation=30),
        small_config(weights="pretrained", epochs=1),
        tmp_path / "run",
        show_progress=False,
    )
    assert {m.status for m in ranking.models} == {"ok"}
    assert all(np.any(t.beta_eff("absolute") != 0) for t in ranking.trajectories)
    # The original was copied, not trained, and the run says what it was.
    jax.tree.map(np.testing.assert_array_equal, before, store.state_arrays(module))
    assert str(specs[1].sha256) in (tmp_path / "run" / "run.json").read_text()


def test_what_was_saved_is_loaded(variables, x, tmp_path):
    spec = linen_spec(variables)
    store.save_module(load_model(spec), tmp_path / "linen.safetensors")
    again = load_model(spec, weights=tmp_path / "linen.safetensors")
    np.testing.assert_array_equal(again.features(x), load_model(spec).features(x))


def test_a_single_model_need_not_stand_in_a_list():
    spec = ncap.from_module(SmallNet(rngs=nnx.Rngs(0)), name="mine", input_size=8)
    assert find_models(spec) == (spec,)
    assert find_models("tiny_plain") == find_models(["tiny_plain"])
    assert len(find_models("tiny_plain*")) > 1
