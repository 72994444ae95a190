"""SqueezeNet 1.1 against its authors' definition for Caffe, in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.squeezenet import SqueezeNet, ceil_max_pool
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled


def numpy_pool(x: np.ndarray) -> np.ndarray:
    """Caffe rounds the number of windows up: ceil((n - 3) / 2) + 1."""
    pads = [(0, 2 * -(-(n - 3) // 2) + 3 - n) for n in x.shape[1:3]]
    return numpy_net.max_pool(x, 3, 2, (pads[0], pads[1]))


def numpy_features(weights: Weights, x: np.ndarray) -> np.ndarray:
    """train_val.prototxt of SqueezeNet_v1.1 up to fire9."""

    def conv(
        x: np.ndarray, name: str, outputs: int, side: int, stride: int = 1, pad: int = 0
    ) -> np.ndarray:
        shape = (side, side, x.shape[-1], outputs)
        kernel = weights.draw(f"{name}/kernel", shape, fan_in=side * side * x.shape[-1])
        bias = weights.draw(f"{name}/bias", (outputs,))
        return numpy_net.relu(numpy_net.conv(x, kernel, bias, stride, ((pad, pad),) * 2))

    x = numpy_pool(conv(x, "conv1", 64, 3, stride=2))
    widths = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    for number, (squeezed, expanded) in enumerate(widths, start=2):
        x = conv(x, f"fire{number}/squeeze1x1", squeezed, 1)
        one = conv(x, f"fire{number}/expand1x1", expanded, 1)
        x = np.concatenate([one, conv(x, f"fire{number}/expand3x3", expanded, 3, pad=1)], -1)
        if number in (3, 5):
            x = numpy_pool(x)
    return x.mean((1, 2))


def test_features_are_the_authors():
    weights = Weights()
    x = np.random.default_rng(0).normal(0.4, 1, (2, 49, 47, 3)).astype(np.float32)
    expected = numpy_features(weights, x)
    check(features(filled(MODELS["squeezenet"], SqueezeNet, weights), x), expected)


@pytest.mark.parametrize("n", [3, 4, 7, 8])
def test_the_last_window_may_reach_over_the_edge(n: int):
    x = np.random.default_rng(0).normal(size=(1, n, n + 1, 2)).astype(np.float32)
    np.testing.assert_array_equal(ceil_max_pool(jnp.asarray(x)), numpy_pool(x).astype(np.float32))
