"""The 16 Keras models: features, stages, statistics and gradients equal Keras's own."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax.zoo import MODELS
from tests.zoo import keras_parity

# Name in our registry, name in Keras, options there, smallest odd size, that size in training.
CASES = {
    "vgg16": ("vgg16", {}, 33),
    "vgg19": ("vgg19", {}, 33),
    "resnet50": ("resnet50", {}, 47),
    "resnet101": ("resnet101", {}, 47),
    "resnet152": ("resnet152", {}, 47),
    "resnet50v2": ("resnet50v2", {}, 47),
    "resnet101v2": ("resnet101v2", {}, 47),
    "resnet152v2": ("resnet152v2", {}, 47),
    "densenet121": ("densenet121", {}, 47),
    "densenet169": ("densenet169", {}, 47),
    "densenet201": ("densenet201", {}, 47),
    "mobilenet_025": ("mobilenet", {"alpha": 0.25}, 33),
    "mobilenet_050": ("mobilenet", {"alpha": 0.5}, 33),
    "mobilenet_075": ("mobilenet", {"alpha": 0.75}, 33),
    "mobilenet": ("mobilenet", {"alpha": 1.0}, 65),
    "mobilenetv2_035": ("mobilenetv2", {"alpha": 0.35}, 33),
    "mobilenetv2_050": ("mobilenetv2", {"alpha": 0.5}, 33),
    "mobilenetv2_075": ("mobilenetv2", {"alpha": 0.75}, 33),
    "mobilenetv2": ("mobilenetv2", {"alpha": 1.0}, 65),
    "mobilenetv2_130": ("mobilenetv2", {"alpha": 1.3}, 33),
    "mobilenetv2_140": ("mobilenetv2", {"alpha": 1.4}, 33),
    "inceptionv3": ("inceptionv3", {}, 79),
    "inceptionresnetv2": ("inceptionresnetv2", {}, 79),
    "xception": ("xception", {}, 79),
}
# A representative third of the 16 models runs by default.
QUICK = ("mobilenet_025", "mobilenetv2_035", "vgg16", "resnet50", "xception")


def models(quick: tuple[str, ...] = ()):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in CASES]


def check(name: str, size: int, dtype: str, folder, *, train: bool) -> None:
    application, options, _ = CASES[name]
    errors, outcome = keras_parity.compare(
        MODELS[name], application, size, dtype, train=train, folder=folder, **options
    )
    assert outcome.features.shape == (keras_parity.BATCH, MODELS[name].feature_width)
    assert np.abs(outcome.features).max() > 1e-3  # the comparison is not of zeros
    wrong = {leaf: e for leaf, e in errors.items() if not e <= keras_parity.TOLERANCE[dtype]}
    assert not wrong


@pytest.mark.parametrize("name", models(QUICK))
def test_inference_float32_odd_size(name, tmp_path):
    check(name, CASES[name][2], "float32", tmp_path, train=False)
