"""Channels last inside PyTorch's networks: the same numbers, and no copy of the images between."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.zoo import torch_layout as layout
from tests.support.torch_nets import needs_timm


def drawn(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_there_and_back_is_the_same():
    x = drawn(2, 3, 4, 5)
    assert layout.channels_last(x).shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(layout.channels_first(layout.channels_last(x)), x)


def test_pixelwise_is_computed_channels_last_on_images_alone():
    images, seen = layout.Images(), []

    def add(x: jax.Array, y: Any) -> jax.Array:
        seen.append(x.shape)
        return x + y

    operator = images.pixelwise(add)
    x, gates, bias = drawn(2, 3, 4, 5), drawn(2, 3, 1, 1), drawn(5)
    with images:
        operator(x, gates)  # four axes, but nothing says that they are images
        images.add(x)
        y = operator(x, gates)
        z = operator(y, 2.0)  # what images gave is images
        operator(x, bias)  # of the last axis as it is
    operator(x, gates)  # the trace is over
    assert seen == [x.shape, (2, 4, 5, 3), (2, 4, 5, 3), x.shape, x.shape]
    np.testing.assert_array_equal(y, x + gates)
    np.testing.assert_array_equal(z, x + gates + 2)


@pytest.mark.parametrize("dim", [1, -3, 2])
def test_images_are_joined_along_any_axis(dim):
    images = layout.Images()
    cat = images.joined(lambda tensors, dim=0: jnp.concatenate(tensors, dim))
    parts = [images.add(drawn(2, 3, 4, 5)), drawn(2, 3, 4, 5)]
    np.testing.assert_array_equal(cat(parts, dim), jnp.concatenate(parts, dim))


@needs_timm
def test_images_are_copied_on_the_way_in_and_out_alone():
    """Of a residual block with norms, activations, a gate and a join, forward and backward."""
    import torch
    from torch.nn import functional as F

    from ncap_jax.zoo.torch_models import InMemory, TorchApply, arrays_of

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = torch.nn.Conv2d(8, 16, 1)
            self.norm = torch.nn.BatchNorm2d(16)
            self.gate = torch.nn.Conv2d(16, 16, 1)
            self.narrow = torch.nn.Conv2d(16, 8, 1)
            self.last = torch.nn.Conv2d(16, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu6(self.norm(self.wide(x)))
            y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
            z = F.silu(self.narrow(y))
            return self.last(torch.cat([z, z + x], 1))

    module = Block()
    params, state = arrays_of(module)
    apply = TorchApply(InMemory(module, "block"))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y, _ = apply(params, dict(state), x, None, training=True)
        return jnp.sum(y**2)

    x = drawn(4, 6, 6, 8)
    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().as_text()
    image = re.compile(r"= f32\[4,(?:\d+,){2}\d+\]\S* (?:transpose|copy)\(")
    assert len(image.findall(program)) == 0
