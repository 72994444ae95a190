"""ResNet v1 and v2 with bottleneck blocks (He et al. 2016), as in Keras Applications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import max_pool, zero_padded_max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import (
    Backbone,
    BatchNorm,
    Conv,
    ConvNorm,
)
from ncap_jax.zoo.weights.published import keras_url

EPSILON = 1.001e-5
# Inner widths of the four stacks; a bottleneck block's output is four times as wide.
WIDTHS = (64, 128, 256, 512)


class Bottleneck(nnx.Module):
    """relu(shortcut(x) + 1x1, 3x3, 1x1 convolutions); v1 strides in the first convolution.

    All convolutions have a bias, as the original Caffe network's conversion has.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, prefix: str, *, project: bool, **options: Any
    ):
        def conv(number: int, *shape: int) -> Conv:
            return Conv(*shape, bias=True, name=f"{prefix}_{number}_conv", **options)

        def norm(number: int, width: int) -> BatchNorm:
            return BatchNorm(width, epsilon=EPSILON, name=f"{prefix}_{number}_bn", **options)

        wide = 4 * width
        self.shortcut = (
            ConvNorm(conv(0, inputs, wide, 1, stride), norm(0, wide), activation=None)
            if project
            else None
        )
        self.reduce = ConvNorm(conv(1, inputs, width, 1, stride), norm(1, width))
        self.conv = ConvNorm(conv(2, width, width, 3), norm(2, width))
        self.expand = ConvNorm(conv(3, width, wide, 1), norm(3, wide), activation=None)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return nnx.relu(shortcut + self.expand(self.conv(self.reduce(x))))


class PreactBottleneck(nnx.Module):
    """shortcut + convolutions of relu(norm(x)); v2 strides in the 3x3 convolution."""

    def __init__(
        self, inputs: int, width: int, stride: int, prefix: str, *, project: bool, **options: Any
    ):
        def norm(name: str | int, width: int) -> BatchNorm:
            return BatchNorm(width, epsilon=EPSILON, name=f"{prefix}_{name}_bn", **options)

        def conv(number: int, *shape: int, **more: Any) -> Conv:
            more = {"name": f"{prefix}_{number}_conv", **more, **options}
            return Conv(*shape, **more)

        self.preact = norm("preact", inputs)
        self.shortcut = conv(0, inputs, 4 * width, 1, stride, bias=True) if project else None
        self.reduce = ConvNorm(conv(1, inputs, width, 1), norm(1, width))
        self.conv = ConvNorm(conv(2, width, width, 3, stride, padding=1), norm(2, width))
        self.expand = conv(3, width, 4 * width, 1, bias=True)
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.preact(x))
        if self.shortcut is not None:
            shortcut = self.shortcut(y)
        else:
            shortcut = x if self.stride == 1 else max_pool(x, 1, self.stride)
        return shortcut + self.expand(self.conv(self.reduce(y)))


class ResNet(Backbone):
    """ResNet v1: the stacks conv3..conv5 stride in their first block.

    Args:
        depths: number of blocks in each of the four stacks.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, depths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(
            Conv(3, 64, 7, 2, padding=3, bias=True, name="conv1_conv", **options),
            BatchNorm(64, epsilon=EPSILON, name="conv1_bn", **options),
        )
        strides = (1, 2, 2, 2)
        self.stacks = _stacks(Bottleneck, depths, strides, strided=1, **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`conv1_relu`, `pool1_pool`, then each block's `convS_blockB_out`."""
        x = self.stem(x)
        stages = {"conv1_relu": x}
        stages["pool1_pool"] = zero_padded_max_pool(x, 3, 2, 1)
        return _through(self.stacks, stages)


class ResNetV2(Backbone):
    """ResNet v2: normalised before each block; the stacks conv2..conv4 stride in their last block.

    Args:
        depths: number of blocks in each of the four stacks.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, depths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = Conv(3, 64, 7, 2, padding=3, bias=True, name="conv1_conv", **options)
        strides = (2, 2, 2, 1)
        self.stacks = _stacks(PreactBottleneck, depths, strides, strided=-1, **options)
        self.norm = BatchNorm(4 * WIDTHS[-1], epsilon=EPSILON, name="post_bn", **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`conv1_conv`, `pool1_pool`, each block's `convS_blockB_out`, and `post_relu`."""
        x = self.stem(x)
        stages = {"conv1_conv": x}
        stages["pool1_pool"] = zero_padded_max_pool(x, 3, 2, 1)
        stages = _through(self.stacks, stages)
        *_, x = stages.values()
        stages["post_relu"] = nnx.relu(self.norm(x))
        return stages


def _stacks(
    block: Callable[..., nnx.Module],
    depths: Sequence[int],
    strides: Sequence[int],
    *,
    strided: Literal[1, -1],
    **options: Any,
) -> nnx.List:
    """Four stacks of blocks; the first block of each projects its shortcut.

    Args:
        block: makes a block.
        depths: number of blocks in each stack.
        strides: of each stack.
        strided: the block of a stack that has its stride: the first (1) or the last (-1).
        options: `dtype` and `rngs`.
    """
    stacks, inputs = [], 64
    for number, (depth, width, stride) in enumerate(zip(depths, WIDTHS, strides), start=2):
        blocks = []
        for b in range(1, depth + 1):
            here = stride if b == (1 if strided == 1 else depth) else 1
            name = f"conv{number}_block{b}"
            blocks.append(block(inputs, width, here, name, project=b == 1, **options))
            inputs = 4 * width
        stacks.append(nnx.List(blocks))
    return nnx.List(stacks)


def _through(stacks: nnx.List, stages: dict[str, jax.Array]) -> dict[str, jax.Array]:
    *_, x = stages.values()
    for number, blocks in enumerate(stacks, start=2):
        for b, block in enumerate(blocks, start=1):
            x = block(x)
            stages[f"conv{number}_block{b}_out"] = x
    return stages


def _spec(
    name: str, build: Callable[..., Backbone], depths: tuple[int, ...], parameters: int, md5: str
) -> ModelSpec:
    v2 = build is ResNetV2
    return ModelSpec(
        name=name,
        build=partial(build, depths),
        input_size=224,
        weights=keras_url(f"resnet/{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        feature_width=2048,
        parameters=parameters,
        preprocessing="tf" if v2 else "caffe",
        source="imagenet2012",
        licence="BSD-3-Clause" if v2 else "MIT",
        citation=(
            "He et al., Identity Mappings in Deep Residual Networks, arXiv 1603.05027"
            if v2
            else "He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385"
        ),
        description=f"{sum(depths)} {'pre-activation ' if v2 else ''}bottleneck blocks",
        family="resnetv2" if v2 else "resnet",
        layout=WeightsLayout("keras", ("predictions", "probs"), md5=md5),
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec("resnet50", ResNet, (3, 4, 6, 3), 23_534_592, "4d473c1dd8becc155b73f8504c6f6626"),
    _spec("resnet101", ResNet, (3, 4, 23, 3), 42_552_832, "88cf7a10940856eca736dc7b7e228a21"),
    _spec("resnet152", ResNet, (3, 8, 36, 3), 58_219_520, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    _spec("resnet50v2", ResNetV2, (3, 4, 6, 3), 23_519_360, "fac2f116257151a9d068a22e544a4917"),
    _spec("resnet101v2", ResNetV2, (3, 4, 23, 3), 42_528_896, "c0ed64b8031c3730f411d2eb4eea35b5"),
    _spec("resnet152v2", ResNetV2, (3, 8, 36, 3), 58_187_904, "ed17cf2e0169df9d443503ef94b23b33"),
)
