"""ResNet-20, -32, -44 and -56 for 32x32 images (He et al. 2016, section 4.2).

With parameter-free shortcuts (option A), as in github.com/akamaster/pytorch_resnet_cifar10, whose
CIFAR-10 weights these are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm

WIDTHS = (16, 32, 64)
SOURCE = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"


def _conv(inputs: int, outputs: int, stride: int, name: str, **options: Any) -> Conv:
    return Conv(inputs, outputs, 3, stride, padding=1, name=name, **options)


def _norm(width: int, name: str, **options: Any) -> BatchNorm:
    # PyTorch's momentum 0.1 is the weight of the batch, ours of the running average.
    return BatchNorm(width, epsilon=1e-5, momentum=0.9, name=name, **options)


class BasicBlock(nnx.Module):
    """relu(shortcut(x) + two 3x3 convolutions)."""

    def __init__(self, inputs: int, outputs: int, stride: int, prefix: str, **options: Any):
        self.first = ConvNorm(
            _conv(inputs, outputs, stride, f"{prefix}.conv1", **options),
            _norm(outputs, f"{prefix}.bn1", **options),
        )
        self.second = ConvNorm(
            _conv(outputs, outputs, 1, f"{prefix}.conv2", **options),
            _norm(outputs, f"{prefix}.bn2", **options),
            activation=None,
        )
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.second(self.first(x))
        if y.shape != x.shape:  # option A: every other pixel, zeros for the new channels
            margin = (y.shape[-1] - x.shape[-1]) // 2
            x = jnp.pad(
                x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (margin, margin))
            )
        return nnx.relu(x + y)


class CifarResNet(Backbone):
    """Three stacks of basic blocks.

    Args:
        blocks: in each stack; the network has 6 * blocks + 2 layers.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, blocks: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(
            _conv(3, WIDTHS[0], 1, "conv1", **options), _norm(WIDTHS[0], "bn1", **options)
        )
        stacks, inputs = [], WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            stack = []
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                name = f"layer{number}.{block}"
                stack.append(BasicBlock(inputs, width, stride, name, **options))
                inputs = width
            stacks.append(nnx.List(stack))
        self.stacks = nnx.List(stacks)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`bn1`, `layer1`, `layer2`, `layer3`, each after its ReLU."""
        x = self.stem(x)
        stages = {"bn1": x}
        for number, stack in enumerate(self.stacks, start=1):
            for block in stack:
                x = block(x)
            stages[f"layer{number}"] = x
        return stages


def _spec(layers: int, digest: str, parameters: int) -> ModelSpec:
    return ModelSpec(
        name=f"cifar_resnet{layers}",
        build=partial(CifarResNet, (layers - 2) // 6),
        input_size=32,
        feature_width=WIDTHS[-1],
        preprocessing="torch",
        weights=f"{SOURCE}/resnet{layers}-{digest}.th",
        parameters=parameters,
        source="cifar10",
        licence="BSD-2-Clause",
        citation="He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385",
        description=f"{layers} layers for 32x32 images, trained on CIFAR-10",
        family="cifar_resnet",
        layout=WeightsLayout(
            "torch",
            ("linear",),
            other_files=(f"cifar10_resnet{layers}.safetensors",),
            sha256_prefix=digest,
        ),
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec(20, "12fca82f", 269_072),
    _spec(32, "d509ac18", 463_504),
    _spec(44, "014dd654", 657_936),
    _spec(56, "4bfd9763", 852_368),
)
