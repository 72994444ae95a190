"""The genuine weights beside the checkout: they load, agree with their origin, and are good."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import check_weights
from ncap_jax import data
from ncap_jax.zoo import MODELS, functional, load_model
from ncap_jax.zoo.weights import sources
from tests.support import keras_outputs

SLOW = (pytest.mark.slow, pytest.mark.timeout(3600))
# Figures of the README beside the weights: linear probe at 128 px, the same of random weights.
PROBES = {
    "mobilenet_025": (0.652, 0.168),
    "mobilenet_075": (0.730, 0.267),
    "mobilenetv2": (0.688, 0.272),
    "mobilenet_12blocks": (0.722, 0.287),
    "squeezenet": (0.658, 0.342),
    "mobilenet_025_folded": (0.620, None),
    "mobilenet_050_folded": (0.674, None),
    "mobilenet_075_folded": (0.690, None),
    "mobilenet_folded": (0.706, None),
    "mobilenetv2_folded": (0.662, None),
    "mobilenetv2_folded_birds": (0.460, None),
    "mobilenetv2_folded_insects": (0.408, None),
}
ACCURACIES = {
    "cifar_resnet20": 0.816,
    "cifar_resnet32": 0.826,
    "cifar_resnet44": 0.831,
    "cifar_resnet56": 0.823,
}


def some(names: Iterable[str], quick: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=() if name in quick else SLOW) for name in names]


@pytest.fixture
def weights_dir(shared_data: pathlib.Path) -> pathlib.Path:
    return shared_data / "weights"


@pytest.mark.parametrize(
    "name", some([*PROBES, *ACCURACIES], ("mobilenetv2_folded", "squeezenet", "cifar_resnet56"))
)
def test_loads_without_anything_left_over(name: str, weights_dir: pathlib.Path):
    module = load_model(name, weights_dir=weights_dir)
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def our_features(name: str, x: np.ndarray, weights_dir: pathlib.Path) -> np.ndarray:
    definition, params, state = functional.split(load_model(name, weights_dir=weights_dir))

    def run(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return functional.apply(definition, params, state, x, train=False)[0]

    return np.asarray(keras_outputs.jit(run)(params, state, x))


def test_features_are_keras_own_on_file(weights_dir: pathlib.Path):
    """Keras's file, read, renamed and run: the features that Keras itself gives."""
    expected = keras_outputs.read_genuine()
    ours = our_features(keras_outputs.GENUINE, keras_outputs.images(96), weights_dir)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "application", "alpha"),
    [
        ("mobilenet_025", "MobileNet", 0.25),
        ("mobilenet_075", "MobileNet", 0.75),
        ("mobilenetv2", "MobileNetV2", 1.0),
    ],
)
@pytest.mark.parametrize("size", [96, 224])
def test_features_are_keras_own(
    name: str, application: str, alpha: float, size: int, weights_dir: pathlib.Path
):
    import keras

    path = sources.find_local(MODELS[name], weights_dir)
    theirs = getattr(keras.applications, application)(
        alpha=alpha,
        include_top=False,
        input_shape=(size, size, 3),
        weights=str(path),
        pooling="avg",
    )
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    ours = our_features(name, x, weights_dir)
    expected = np.asarray(theirs(x))
    if (name, size) == (keras_outputs.GENUINE, 96):
        kept = np.asarray(theirs(keras_outputs.images(96)))
        np.testing.assert_allclose(keras_outputs.read_genuine(), kept, rtol=1e-4, atol=1e-5)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROBES)
def test_linear_probe_is_as_stated_and_beats_random_weights(
    name: str, shared_data: pathlib.Path, weights_dir: pathlib.Path
):
    train, test = check_weights.samples(str(shared_data / "tfds"), 1000)
    stated, stated_random = PROBES[name]
    arguments = (MODELS[name], train, test)
    reached = check_weights.probe(*arguments, "pretrained", str(weights_dir), 128)
    # Samples and penalty of the stated figures are not known: two standard deviations.
    assert reached == pytest.approx(stated, abs=0.04)
    random = check_weights.probe(*arguments, None, str(weights_dir), 128)
    assert random < reached - 0.1
    if stated_random is not None:
        assert random < stated_random + 0.1


def test_a_cifar_resnet_classifies_about_as_stated(
    shared_data: pathlib.Path, weights_dir: pathlib.Path
):
    images, labels = data.load_test_split("cifar10", data_dir=shared_data / "tfds")
    spec = MODELS["cifar_resnet20"]
    reached = check_weights.accuracy(spec, images[:300], labels[:300], str(weights_dir))
    # Three standard deviations of 300 images.
    assert reached == pytest.approx(ACCURACIES[spec.name], abs=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCURACIES)
def test_cifar_resnets_classify_as_stated(
    name: str, shared_data: pathlib.Path, weights_dir: pathlib.Path
):
    images, labels = data.load_test_split("cifar10", data_dir=shared_data / "tfds")
    reached = check_weights.accuracy(MODELS[name], images, labels, str(weights_dir))
    assert len(labels) == 2000
    # Stated to three digits; one image is 0.0005.
    assert reached == pytest.approx(ACCURACIES[name], abs=0.001)
