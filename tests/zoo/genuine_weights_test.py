"""The genuine weights beside the checkout: they load, agree with their origin, and are good."""

from __future__ import annotations

import jax
import keras
import numpy as np
import pytest
from flax import nnx

from experiments import check_weights
from ncap_jax.zoo import MODELS, load_model
from ncap_jax.zoo.weights import sources

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


def some(names, quick):
    return [pytest.param(name, marks=() if name in quick else SLOW) for name in names]


@pytest.fixture
def weights_dir(shared_data):
    return shared_data / "weights"


@pytest.mark.parametrize(
    "name", some([*PROBES, *ACCURACIES], ("mobilenetv2_folded", "squeezenet", "cifar_resnet56"))
)
def test_loads_without_anything_left_over(name, weights_dir):
    module = load_model(name, weights_dir=weights_dir)
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "application", "alpha"),
    [
        ("mobilenet_025", "MobileNet", 0.25),
        pytest.param("mobilenet_075", "MobileNet", 0.75, marks=SLOW),
        pytest.param("mobilenetv2", "MobileNetV2", 1.0, marks=SLOW),
    ],
)
@pytest.mark.parametrize("size", [96, pytest.param(224, marks=SLOW)])
def test_features_are_keras_own(name, application, alpha, size, weights_dir):
    path = sources.find_local(MODELS[name], weights_dir)
    theirs = getattr(keras.applications, application)(
        alpha=alpha,
        include_top=False,
        input_shape=(size, size, 3),
        weights=str(path),
        pooling="avg",
    )
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    graphdef, state = nnx.split(load_model(name, weights_dir=weights_dir))
    ours = jax.jit(lambda state, x: nnx.merge(graphdef, state).features(x))(state, x)
    expected = np.asarray(theirs(x))
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROBES)
def test_linear_probe_is_as_stated_and_beats_random_weights(name, shared_data, weights_dir):
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


@pytest.mark.parametrize("name", some(ACCURACIES, ("cifar_resnet20",)))
def test_cifar_resnets_classify_as_stated(name, shared_data, weights_dir):
    from ncap_jax import data

    images, labels = data.load_test_split("cifar10", shared_data / "tfds")
    reached = check_weights.accuracy(MODELS[name], images, labels, str(weights_dir))
    assert len(labels) == 2000
    # Stated to three digits; one image is 0.0005.
    assert reached == pytest.approx(ACCURACIES[name], abs=0.001)
