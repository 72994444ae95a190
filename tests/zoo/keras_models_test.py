"""Keras 3 models as candidates: parity with Keras itself, in inference and in training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import batch_norm
from ncap_jax.zoo import functional, load_model
from tests.support.small import small_config, small_digits


def build(side: int | None = 8, channels: int = 3, name: str = "mykeras") -> Any:
    keras.utils.set_random_seed(1)
    image = keras.Input((side, side, channels))
    y = keras.layers.Conv2D(12, 4, strides=4, use_bias=False)(image)
    y = keras.layers.BatchNormalization(momentum=0.9)(y)
    y = keras.layers.ReLU(name="map")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dropout(0.3, name="below")(y)
    return keras.Model(image, keras.layers.Dense(10)(y), name=name)


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 1, (6, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("layer", ["below", "map", None])
def test_features_are_keras_own(model: Any, x: np.ndarray, layer: str | None):
    spec = ncap.from_keras(model, layer=layer)
    assert (spec.name, spec.input_size) == ("mykeras", 8)
    assert spec.feature_width == (10 if layer is None else 12)
    body = model if layer is None else keras.Model(model.input, model.get_layer(layer).output)
    expected = np.asarray(body(x, training=False))
    if expected.ndim == 4:
        expected = expected.mean(axis=(1, 2))
    # One fused program against Keras's single operations.
    np.testing.assert_allclose(load_model(spec).features(x), expected, rtol=1e-5, atol=1e-6)


def test_training_mode_moves_statistics_and_random_streams(x: np.ndarray):
    model = build()
    definition, params, state = functional.split(load_model(ncap.from_keras(model, layer="below")))
    apply = jax.jit(functional.apply, static_argnums=0, static_argnames=("train",))
    first, moved = apply(definition, params, state, x, train=True)
    second, _ = apply(definition, params, moved, x, train=True)
    assert np.any(first != second), "dropout draws afresh every step"
    model(x, training=True)
    ours = {key.split(":")[1]: value for key, value in moved["state"].items()}
    statistics = [v for v in model.non_trainable_variables if "moving" in v.path]
    assert len(statistics) == 2
    for variable in statistics:
        np.testing.assert_allclose(ours[variable.path], variable.value, rtol=1e-6, atol=1e-7)


def test_a_training_step_leaves_the_keras_model_as_it_is(model: Any, x: np.ndarray):
    before = [np.array(w) for w in model.get_weights()]
    definition, params, state = functional.split(load_model(ncap.from_keras(model, layer="below")))

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            y, moved = functional.apply(definition, params, state, x, train=True)
            return jnp.sum(y**2), moved

        gradients, moved = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), moved

    after, moved = step(params, state)
    for old, new in ((params, after), (state, moved)):
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), old, new)
        assert all(jax.tree.leaves(changed))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_ranking_leaves_the_keras_model_as_it_is(model: Any):
    before = [np.array(w) for w in model.get_weights()]
    spec = ncap.from_keras(model, name="other_name", layer="below")
    ranking = ncap.rank_models(
        [spec],
        small_digits(train=40, validation=30),
        small_config(weights="pretrained", epochs=1),
        show_progress=False,
    )
    assert ranking.best.name == "other_name"
    assert ranking.best.epochs == 1
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_builds_of_one_model_share_a_definition(model: Any):
    spec = ncap.from_keras(model, layer="below")
    definition, *_ = functional.split(load_model(spec))
    assert functional.split(load_model(spec))[0] is definition
    assert functional.split(load_model(spec, weights=None, seed=3))[0] is definition


def test_later_training_in_keras_does_not_reach_the_candidate(x: np.ndarray):
    model = build()
    spec = ncap.from_keras(model)
    before = np.asarray(load_model(spec).features(x))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((6, 10)), verbose=0)
    np.testing.assert_array_equal(before, load_model(spec).features(x))


def test_frozen_layers_stay_frozen():
    model = build()
    model.layers[1].trainable = False  # the convolution
    spec = ncap.from_keras(model, layer="below")
    assert spec.parameters == 2 * 12
    model.trainable = False
    with pytest.raises(errors.ModelError) as refusal:
        ncap.from_keras(model)
    assert refusal.value.cause == "the Keras model mykeras has nothing to train"
    assert refusal.value.remedy == "Set model.trainable = True"


def test_random_weights_follow_the_seed(model: Any, x: np.ndarray):
    spec = ncap.from_keras(model, layer="below")
    drawn = [np.asarray(load_model(spec, None, seed=s).features(jnp.asarray(x))) for s in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])
    assert np.any(drawn[0] != load_model(spec).features(x))


ONE_INPUT = "Give a built model of one input (batch, height, width, 3)"


@pytest.mark.parametrize(
    ("make", "options", "cause", "remedy"),
    [
        (build, {"layer": "belo"}, "unknown layer 'belo'", "Did you mean below"),
        (
            lambda: build(None),
            {},
            "the Keras model mykeras takes images of any size",
            "Give input_size in pixels",
        ),
        (
            lambda: build(channels=1),
            {},
            "the Keras model mykeras has inputs of shapes [(None, 8, 8, 1)]",
            ONE_INPUT,
        ),
        (
            lambda: keras.Sequential([keras.layers.Dense(3)], name="bare"),
            {},
            "the Keras model bare has inputs of shapes []",
            ONE_INPUT,
        ),
        (lambda: "resnet50", {}, "a str is not a keras.Model", "Give a Keras 3 model"),
    ],
)
def test_unusable_models_are_refused(
    make: Callable[[], Any], options: dict[str, str], cause: str, remedy: str
):
    with pytest.raises(errors.ModelError) as refusal:
        ncap.from_keras(make(), **options)
    assert (refusal.value.cause, refusal.value.remedy) == (cause, remedy)


def test_another_backend_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(errors.ModelError) as refusal:
        ncap.from_keras(model)
    assert refusal.value.cause == "Keras runs on the backend 'torch'"
    assert refusal.value.remedy == "Set KERAS_BACKEND=jax before Keras is imported"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(errors.ModelError) as refusal:
        ncap.from_keras("resnet50")
    assert str(refusal.value) == ("Keras is not installed. Run pip install 'ncap_jax[keras]'.")


def test_batch_norm_remembers_no_more_than_an_epoch(x: np.ndarray):
    """What one step adds to the running mean, by hand; the user's model keeps its momentum."""
    image = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.layers.BatchNormalization(momentum=0.99, name="slow")])
    fast = keras.layers.BatchNormalization(momentum=0.5, name="fast")
    model = keras.Model(image, keras.layers.Add()([inner(image), fast(image)]))
    spec = ncap.from_keras(model, name="mine")
    limited, again, plain = (load_model(spec) for _ in range(3))
    for module in (limited, again):
        batch_norm.limit_memory(module, 39)  # momentum 0.95
    assert functional.split(limited)[0] is functional.split(again)[0]
    assert functional.split(limited)[0] != functional.split(plain)[0]
    for module, momentum in ((limited, 0.95), (plain, 0.99)):
        module.train()
        module.features(jnp.asarray(x))
        means = {k: v[...] for k, v in module.state.items() if k.endswith("moving_mean")}
        for name, value in means.items():
            share = 1 - (0.5 if "fast" in name else momentum)
            np.testing.assert_allclose(value, share * x.mean(axis=(0, 1, 2)), rtol=1e-5)
        assert len(means) == 2
    assert inner.layers[-1].momentum == 0.99
    assert fast.momentum == 0.5


def test_damaged_models_are_refused():
    model = build()
    weights = model.get_weights()
    weights[0][0, 0, 0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(errors.WeightsError) as refusal:
        ncap.from_keras(model)
    assert refusal.value.cause.startswith("mykeras: 1 of the 576 values of params.")
    assert refusal.value.remedy == (
        "Give intact weights; a training that diverged leaves such values"
    )
