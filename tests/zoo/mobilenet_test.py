"""MobileNet v1 and v2 against what Keras's networks do, in inference and in a training step."""

from __future__ import annotations

import pytest

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.mobilenet import divisible_by_8
from tests.support import keras_outputs


@pytest.mark.parametrize("name", ["mobilenet_025", "mobilenetv2_035"])
def test_stages_features_and_norms_are_keras_own(name: str):
    keras_outputs.check_inference(name)


def test_a_training_step_is_keras_own():
    keras_outputs.check_training()


@pytest.mark.parametrize(
    ("channels", "expected"), [(3, 8), (8, 8), (11.2, 16), (12, 16), (19.6, 24), (91, 88), (84, 88)]
)
def test_widths_are_the_nearest_multiple_of_8_but_never_much_less(channels: float, expected: int):
    assert divisible_by_8(channels) == expected
    assert expected >= 0.9 * channels


def test_the_cut_network_ignores_what_lies_beyond_the_cut():
    full, cut = MODELS["mobilenet"], MODELS["mobilenet_12blocks"]
    assert set(cut.layout.classifier) - set(full.layout.classifier) == {
        "conv_dw_13",
        "conv_dw_13_bn",
        "conv_pw_13",
        "conv_pw_13_bn",
    }
    assert cut.weights == full.weights
    assert full.parameters is not None
    assert cut.parameters is not None
    # The thirteenth block: depthwise and pointwise kernels, two batch norms.
    assert full.parameters - cut.parameters == 9 * 1024 + 1024 * 1024 + 4 * 1024
