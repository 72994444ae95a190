"""Operators that torchax lacks or computes otherwise."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.torch_nets import needs_timm

pytestmark = needs_timm


@pytest.fixture(scope="module")
def env() -> Any:
    from ncap_jax.zoo.torch_models import environment

    return environment()


def run(env: Any, function: Any, *arrays: np.ndarray) -> np.ndarray:
    with env:
        return np.asarray(function(*(env.wrap(jnp.asarray(a)) for a in arrays)).jax())


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


CALLS: dict[str, Any] = {
    "linear by keyword": (
        lambda f, x, w: f.linear(input=x, weight=w, bias=None),
        (drawn(2, 3, 5), drawn(4, 5)),
    ),
    "convolution": (
        lambda f, x, w: f.conv2d(x, w, stride=2, padding=1),
        (drawn(2, 3, 7, 7), drawn(4, 3, 3, 3)),
    ),
    "depthwise, dilated": (
        lambda f, x, w: f.conv2d(x, w, padding="same", dilation=2, groups=3),
        (drawn(2, 3, 7, 7), drawn(3, 1, 3, 3)),
    ),
    "grouped, transposed": (
        lambda f, x, w: f.conv_transpose2d(x, w, stride=2),
        (drawn(2, 4, 5, 5), drawn(4, 2, 2, 2)),
    ),
    "antialiased bicubic": (
        lambda f, x: f.interpolate(x, (4, 9), mode="bicubic", antialias=True),
        (drawn(2, 3, 7, 6),),
    ),
    "antialiased bilinear": (
        lambda f, x: f.interpolate(x, (4, 9), mode="bilinear", antialias=True),
        (drawn(2, 3, 7, 6),),
    ),
    "average pooling": (lambda f, x: f.avg_pool2d(x, 3, 2, 1), (drawn(2, 3, 7, 6),)),
    "average pooling, of whole windows": (
        lambda f, x: f.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False),
        (drawn(2, 3, 7, 6),),
    ),
    "average pooling, rounded up": (
        lambda f, x: f.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
        (drawn(2, 3, 8, 5),),
    ),
    "average pooling, one side for both": (
        lambda f, x: f.avg_pool2d(x, [3], [1], [1], count_include_pad=False),
        (drawn(2, 3, 7, 6),),
    ),
    "average pooling, with a divisor": (
        lambda f, x: f.avg_pool2d(x, 2, 3, 1, True, False, 5),
        (drawn(3, 9, 8),),
    ),
    "batch norm without statistics": (
        lambda f, x: f.batch_norm(x, None, None, training=True),
        (drawn(4, 3, 5),),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_values_are_pytorchs(env: Any, call: str) -> None:
    import torch
    import torch.nn.functional as functions

    function, arrays = CALLS[call]
    expected = function(functions, *map(torch.tensor, arrays)).numpy()
    ours = run(env, lambda *given: function(functions, *given), *arrays)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)  # float32, other order


def test_arrays_of_pytorch_become_constants(env: Any) -> None:
    import torch

    table = torch.arange(3.0)
    np.testing.assert_array_equal(run(env, lambda x: x + table, np.ones(3, np.float32)), [1, 2, 3])


def test_images_smaller_than_a_kernel_are_refused(env: Any) -> None:
    """As PyTorch does; the mean over what JAX gives back would be NaN."""
    from ncap_jax.zoo.torch_operators import OperatorError

    def convolve(x: Any, w: Any) -> Any:
        import torch.nn.functional as functions

        return functions.conv2d(x, w, padding=1)

    with pytest.raises(OperatorError, match="kernel of 5 x 5 is larger than the images of 4 x 3"):
        run(env, convolve, drawn(1, 3, 2, 1), drawn(4, 3, 5, 5))


def test_torchax_itself_stays_as_it_was(env: Any) -> None:
    import torch
    import torchax

    own = torchax.default_env()._ops[torch.ops.aten.convolution]
    assert own is not env._ops[torch.ops.aten.convolution]
