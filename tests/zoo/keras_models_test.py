"""Keras 3 models as candidates: parity with Keras itself, in inference and in training."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.zoo import functional, load_model
from tests.small import small_config, small_digits


def build(side=8, channels=3, name="mykeras"):
    keras.utils.set_random_seed(1)
    image = keras.Input((side, side, channels))
    y = keras.layers.Conv2D(12, 4, strides=4, use_bias=False)(image)
    y = keras.layers.BatchNormalization(momentum=0.9)(y)
    y = keras.layers.ReLU(name="map")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dropout(0.3, name="below")(y)
    return keras.Model(image, keras.layers.Dense(10)(y), name=name)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(0.5, 1, (6, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("layer", ["below", "map", None])
def test_features_are_keras_own(model, x, layer):
    spec = ncap.from_keras(model, layer=layer)
    assert (spec.name, spec.input_size) == ("mykeras", 8)
    assert spec.feature_width == (10 if layer is None else 12)
    body = model if layer is None else keras.Model(model.input, model.get_layer(layer).output)
    expected = np.asarray(body(x, training=False))
    if expected.ndim == 4:
        expected = expected.mean(axis=(1, 2))
    # One fused program against Keras's single operations.
    np.testing.assert_allclose(load_model(spec).features(x), expected, rtol=1e-5, atol=1e-6)


def test_training_mode_moves_statistics_and_random_streams(x):
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


def test_ranking_leaves_the_keras_model_as_it_is(model):
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


def test_later_training_in_keras_does_not_reach_the_candidate(x):
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
    with pytest.raises(errors.ModelError, match="nothing to train"):
        ncap.from_keras(model)


def test_random_weights_follow_the_seed(model, x):
    spec = ncap.from_keras(model, layer="below")
    drawn = [np.asarray(load_model(spec, None, seed=s).features(jnp.asarray(x))) for s in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])
    assert np.any(drawn[0] != load_model(spec).features(x))


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (build, {"layer": "belo"}, "Did you mean below"),
        (lambda: build(None), {}, "Give input_size"),
        (lambda: build(channels=1), {}, r"\(None, 8, 8, 1\)"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), {}, "one input"),
        (lambda: "resnet50", {}, "str is no keras.Model"),
    ],
)
def test_unusable_models_are_refused(make, options, match):
    with pytest.raises(errors.ModelError, match=match):
        ncap.from_keras(make(), **options)


def test_another_backend_is_refused(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(errors.ModelError, match="KERAS_BACKEND=jax"):
        ncap.from_keras(model)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(errors.ModelError, match=r"ncap_jax\[keras\]"):
        ncap.from_keras("resnet50")
