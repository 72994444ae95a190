"""CIFAR ResNets against the definition of github.com/akamaster/pytorch_resnet_cifar10 in NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.cifar_resnet import CifarResNet
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled

PADS = ((1, 1), (1, 1))


def numpy_features(weights: Weights, x: np.ndarray, blocks: int) -> np.ndarray:
    """resnet.py: option A for the shortcuts, global average pooling."""

    def conv(x: np.ndarray, name: str, outputs: int, stride: int = 1) -> np.ndarray:
        inputs = x.shape[-1]
        kernel = weights.draw(f"{name}.weight", (outputs, inputs, 3, 3), fan_in=9 * inputs)
        return numpy_net.conv(x, kernel.transpose(2, 3, 1, 0), 0.0, stride, PADS)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return numpy_net.batch_norm(
            x, *(weights.draw(f"{name}.{kind}", (x.shape[-1],)) for kind in kinds)
        )

    x = numpy_net.relu(norm(conv(x, "conv1", 16), "bn1"))
    for stack, width in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            name = f"layer{stack}.{block}"
            stride = 2 if stack > 1 and block == 0 else 1
            y = numpy_net.relu(norm(conv(x, f"{name}.conv1", width, stride), f"{name}.bn1"))
            y = norm(conv(y, f"{name}.conv2", width), f"{name}.bn2")
            if stride == 2:
                x = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (width // 4, width // 4)))
            x = numpy_net.relu(x + y)
    return x.mean((1, 2))


@pytest.mark.parametrize("blocks", [1, 2])
def test_features_are_the_publishers(blocks: int):
    weights = Weights()
    x = np.random.default_rng(0).normal(0.4, 1, (2, 17, 17, 3)).astype(np.float32)
    expected = numpy_features(weights, x, blocks)
    module = filled(MODELS["cifar_resnet20"], partial(CifarResNet, blocks), weights)
    check(features(module, x), expected)


@pytest.mark.parametrize(("layers", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9)])
def test_layers_count_convolutions_and_the_classifier(layers: int, blocks: int):
    spec = MODELS[f"cifar_resnet{layers}"]
    assert spec.build.args == (blocks,)
    assert spec.layout.other_files == (f"cifar10_resnet{layers}.safetensors",)
