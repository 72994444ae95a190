"""Models of other kinds as candidates: the same numbers, the same life as a model of the zoo."""

from __future__ import annotations

import pathlib
from functools import partial
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
from ncap_jax.zoo import functional, load_model
from ncap_jax.zoo.adapters import LinenApply
from ncap_jax.zoo.weights import store
from tests.support.small import SmallNet, small_config, small_digits


class LinenNet(linen.Module):
    """Convolution, batch norm, dropout and a classifier that has to go."""

    widths: Any = (12,)
    dtype: Any = None

    def setup(self) -> None:
        self.conv = linen.Conv(self.widths[0], (4, 4), strides=4, use_bias=False, dtype=self.dtype)
        self.norm = linen.BatchNorm(momentum=0.9, dtype=self.dtype)
        self.drop = linen.Dropout(0.2)
        self.head = linen.Dense(10)

    def maps(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.drop(x, deterministic=not train)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.head(jnp.mean(self.maps(x, train), axis=(1, 2)))

    def plain(self, x: jax.Array) -> jax.Array:
        return jnp.mean(self.conv(x), axis=(1, 2))

    def pixels(self, x: jax.Array) -> jax.Array:
        return x[0, 0, 0]


NET = LinenNet([12])  # a list: Linen modules are not always hashable
# Half the compile time of the default.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """What `NET.init` returns, drawn by NumPy: nothing is compiled for it."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)

    return {
        "params": {
            "conv": {"kernel": draw(4, 4, 3, 12)},
            "norm": {"scale": 1 + draw(12), "bias": draw(12)},
            "head": {"kernel": draw(12, 10), "bias": draw(10)},
        },
        "batch_stats": {"norm": {"mean": draw(12), "var": 1 + draw(12) ** 2}},
    }


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(0.5, 1, (5, 8, 8, 3)), jnp.float32)


def linen_spec(variables: dict[str, Any] | None, **changes: Any) -> ModelSpec:
    options = {"name": "linen", "input_size": 8, "method": "maps", **changes}
    return ncap.from_linen(NET, variables, **options)


def test_linen_features_are_the_modules_own(variables: dict[str, Any], x: jax.Array):
    spec = linen_spec(variables)
    assert (spec.feature_width, spec.parameters) == (12, 4 * 4 * 3 * 12 + 24)
    expected = NET.apply(variables, x, train=False, method="maps").mean(axis=(1, 2))
    np.testing.assert_array_equal(load_model(spec).features(x), expected)


def test_linen_training_mode_moves_the_statistics(variables: dict[str, Any], x: jax.Array):
    definition, params, state = functional.split(load_model(linen_spec(variables)))
    apply = jit(functional.apply, static_argnums=0, static_argnames=("train",))
    first, moved = apply(definition, params, state, x, train=True)
    second, _ = apply(definition, params, moved, x, train=True)
    run = partial(NET.apply, train=True, method="maps", mutable=["batch_stats"])
    _, expected = jit(run)(variables, x, rngs={"dropout": jax.random.key(0)})
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


def test_linen_gradients_reach_every_parameter(variables: dict[str, Any], x: jax.Array):
    definition, params, state = functional.split(load_model(linen_spec(variables)))

    def loss(params: Any) -> jax.Array:
        return jnp.sum(functional.apply(definition, params, state, x, train=True)[0] ** 2)

    gradients = jax.tree.leaves(jit(jax.grad(loss))(params))
    assert len(gradients) == 3
    assert all(np.any(g != 0) for g in gradients)


def test_linen_without_variables_is_for_runs_from_scratch():
    spec = linen_spec(None)
    drawn = load_model(spec, weights=None, seed=3)
    other = load_model(spec, weights=None, seed=4)
    assert np.any(drawn.params["conv"]["kernel"][...] != other.params["conv"]["kernel"][...])
    with pytest.raises(errors.WeightsError) as refusal:
        load_model(spec)
    assert refusal.value.cause == "linen has no pretrained weights"


def test_linen_runs_in_the_dtype_of_the_run(variables: dict[str, Any], x: jax.Array):
    model = load_model(linen_spec(variables), dtype=jnp.bfloat16)
    assert model.features(x.astype(jnp.bfloat16)).dtype == jnp.float32  # averages are
    assert store.state_arrays(model)["params.conv.kernel"].dtype == np.float32
    plain = load_model(linen_spec(variables, method=LinenNet.plain), dtype=jnp.bfloat16)
    assert plain.features(x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "error", "cause", "remedy"),
    [
        (
            {"method": "features"},
            errors.ModelError,
            "LinenNet has no method 'features'",
            "Name the method that returns the features",
        ),
        (
            {"method": "pixels"},
            errors.ModelError,
            "the model returns (3,) instead of features",
            "Name one that returns (batch, width) or (batch, height, width, channels)",
        ),
        (
            {"preprocessing": "pytorch"},
            errors.ConfigError,
            "unknown preprocessing mode 'pytorch'",
            "Did you mean torch",
        ),
    ],
)
def test_unusable_linen_modules_are_refused(
    variables: dict[str, Any],
    changes: dict[str, str],
    error: type[errors.NcapError],
    cause: str,
    remedy: str,
):
    with pytest.raises(error) as refusal:
        linen_spec(variables, **changes)
    assert (refusal.value.cause, refusal.value.remedy) == (cause, remedy)


def test_linen_variables_must_fit(variables: dict[str, Any]):
    without = {"params": variables["params"]}
    with pytest.raises(errors.WeightsError) as refusal:
        linen_spec(without)
    assert refusal.value.cause == (
        "the given variables of linen does not fit Adapted: 2 unfilled "
        "(state.batch_stats.norm.mean, state.batch_stats.norm.var)"
    )
    with pytest.raises(errors.WeightsError) as refusal:
        ncap.from_linen(LinenNet((6,)), variables, name="narrow", input_size=8, method="maps")
    assert "(4, 4, 3, 12) in the file, (4, 4, 3, 6) here" in refusal.value.cause


def test_models_of_values_that_are_not_finite_are_refused(variables: dict[str, Any]):
    module = SmallNet(rngs=nnx.Rngs(5))
    module.norm.var[...] = jnp.full(12, jnp.nan)
    damaged = jax.tree.map(lambda leaf: leaf / 0, variables)
    for make, cause in (
        (
            lambda: ncap.from_module(module, name="mine", input_size=8),
            "mine: 12 of the 12 values of module.norm.var are not finite",
        ),
        (
            lambda: linen_spec(damaged),
            "the given variables of linen: 576 of the 576 values of params.conv.kernel are not "
            "finite",
        ),
    ):
        with pytest.raises(errors.WeightsError) as refusal:
            make()
        assert refusal.value.cause == cause
        assert refusal.value.remedy == (
            "Give intact weights; a training that diverged leaves such values"
        )


def test_a_module_in_memory(x: jax.Array):
    module = SmallNet(rngs=nnx.Rngs(5))
    module.eval()
    spec = ncap.from_module(module, name="mine", input_size=8)
    np.testing.assert_array_equal(load_model(spec).features(x), module.features(x))
    renamed = ncap.from_module(module, name="mine", input_size=8, method="conv")
    np.testing.assert_array_equal(load_model(renamed).features(x), module.conv(x).mean(axis=(1, 2)))
    assert (
        spec.sha256 != ncap.from_module(SmallNet(rngs=nnx.Rngs(6)), name="b", input_size=8).sha256
    )
    with pytest.raises(errors.ModelError) as refusal:
        ncap.from_module(module, name="mine", input_size=8, method="embed")
    assert refusal.value.cause == "SmallNet has no method 'embed'"
    assert refusal.value.remedy == "Name the method that returns the features"
    with pytest.raises(errors.ModelError) as refusal:
        load_model(spec, weights=None)
    assert refusal.value.cause == "mine is a module in memory, which cannot be drawn anew at random"
    assert refusal.value.remedy == "For a run from scratch, give a ModelSpec with a build function"


def test_builds_of_one_module_share_a_definition(variables: dict[str, Any]):
    """With other variables too: the module and its method decide, dtypes and methods differ."""
    spec = linen_spec(variables)
    definition, *_ = functional.split(load_model(spec))
    assert functional.split(load_model(spec))[0] is definition
    assert functional.split(load_model(spec, weights=None, seed=4))[0] is definition
    again = ncap.from_linen(LinenNet([12]), variables, name="b", input_size=8, method="maps")
    assert functional.split(load_model(again))[0] is definition
    other = linen_spec(variables, method=LinenNet.plain)
    assert functional.split(load_model(other))[0] != definition
    assert functional.split(load_model(spec, dtype="bfloat16"))[0] != definition
    module = SmallNet(rngs=nnx.Rngs(5))
    kept = ncap.from_module(module, name="mine", input_size=8)
    assert functional.split(load_model(kept))[0] is functional.split(load_model(kept))[0]


def test_linen_modules_are_compared_by_value_where_they_can_be():
    one, twin = (LinenApply(LinenNet([12]), "maps", (("train", True),)) for _ in range(2))
    assert one == twin
    assert hash(one) == hash(twin)
    assert one != LinenApply(LinenNet([13]), "maps", (("train", True),))
    assert one != LinenApply(LinenNet([12]), "plain", ())
    assert one != "maps"
    arrays = [LinenApply(LinenNet(np.array([12, 12])), "maps", ()) for _ in range(2)]
    assert arrays[0] != arrays[1]
    assert arrays[0] == LinenApply(arrays[0].module, "maps", ())


def test_what_is_trained_is_a_copy(x: jax.Array):
    module = SmallNet(rngs=nnx.Rngs(0))
    before = store.state_arrays(module)
    trained = load_model(ncap.from_module(module, name="mine", input_size=8))
    trained.train()
    trained.features(x)
    assert np.any(store.state_arrays(trained)["module.norm.mean"] != before["norm.mean"])
    trained.module.conv.kernel[...] = jnp.zeros((4, 4, 3, 12))
    jax.tree.map(np.testing.assert_array_equal, before, store.state_arrays(module))


@pytest.mark.slow
def test_adapted_models_are_ranked_like_any_other(
    variables: dict[str, Any], tmp_path: pathlib.Path
):
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


def test_what_was_saved_is_loaded(variables: dict[str, Any], x: jax.Array, tmp_path: pathlib.Path):
    spec = linen_spec(variables)
    store.save_module(load_model(spec), tmp_path / "linen.safetensors")
    again = load_model(spec, weights=tmp_path / "linen.safetensors")
    np.testing.assert_array_equal(again.features(x), load_model(spec).features(x))
