"""MobileNets with folded batch norm against TensorFlow's definition, in NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.folded import FoldedMobileNet, FoldedMobileNetV2
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled


class Layers:
    """TensorFlow's layers with "SAME" padding, weights by name."""

    def __init__(self, weights: Weights):
        self.weights = weights

    def conv(
        self, x: np.ndarray, name: str, outputs: int, side: int = 1, stride: int = 1
    ) -> np.ndarray:
        shape = (side, side, x.shape[-1], outputs)
        kernel = self.weights.draw(f"{name}/kernel", shape, fan_in=side * side * x.shape[-1])
        bias = self.weights.draw(f"{name}/bias", (outputs,))
        return numpy_net.conv(x, kernel, bias, stride, numpy_net.same_pads(x, side, stride))

    def depthwise(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        shape = (3, 3, x.shape[-1], 1)
        kernel = self.weights.draw(f"{name}/depthwise_kernel", shape, fan_in=9)
        bias = self.weights.draw(f"{name}/bias", (x.shape[-1],))
        pads = numpy_net.same_pads(x, 3, stride)
        return numpy_net.relu6(numpy_net.depthwise(x, kernel[..., 0], bias, stride, pads))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 33, 36, 3)).astype(np.float32)


def test_v1_is_tensorflows(x: np.ndarray):
    layers = Layers(Weights())
    y = numpy_net.relu6(layers.conv(x, "Conv2d_0", 8, 3, 2))
    widths = (16, 32, 32, 64, 64, *(128,) * 6, 256, 256)
    for number, width in enumerate(widths, start=1):
        stride = 2 if number in (2, 4, 6, 12) else 1
        y = layers.depthwise(y, f"Conv2d_{number}_depthwise", stride)
        y = numpy_net.relu6(layers.conv(y, f"Conv2d_{number}_pointwise", width))
    spec = MODELS["mobilenet_025_folded"]
    module = filled(spec, partial(FoldedMobileNet, 0.25), layers.weights)
    check(features(module, x), y.mean((1, 2)))


def test_v2_is_tensorflows(x: np.ndarray):
    layers = Layers(Weights())
    y = numpy_net.relu6(layers.conv(x, "Conv", 32, 3, 2))
    # Table 2 of the paper: expansion, channels, repeats, stride of the first.
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    number = 0
    for expansion, width, repeats, first in (*table, (6, 160, 3, 2), (6, 320, 1, 1)):
        for repeat in range(repeats):
            name = f"expanded_conv_{number}" if number else "expanded_conv"
            inputs, before = y.shape[-1], y
            if expansion > 1:
                y = numpy_net.relu6(layers.conv(y, f"{name}/expand", expansion * inputs))
            y = layers.depthwise(y, f"{name}/depthwise", 1 if repeat else first)
            y = layers.conv(y, f"{name}/project", width)
            y = before + y if repeat else y
            number += 1
    y = numpy_net.relu6(layers.conv(y, "Conv_1", 1280))
    module = filled(MODELS["mobilenetv2_folded"], FoldedMobileNetV2, layers.weights)
    check(features(module, x), y.mean((1, 2)))
