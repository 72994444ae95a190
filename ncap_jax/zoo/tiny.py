"""The embedded pool: small convolutional networks of different families for 32x32 images.

Each was pretrained on CIFAR-10 by `experiments/pretrain_tiny.py`; the weights are shipped with
the package. They exist so that the whole tool runs offline, in minutes, on real pretrained
models whose quality differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops import pooling
from ncap_jax.ops.convolutions import convolution
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.layers import global_average, he_normal

INPUT_SIZE = 32
Layer = Callable[[jax.Array], jax.Array]


class ConvNorm(nnx.Module):
    """Convolution without bias -> batch norm -> activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Layer = nnx.relu,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            strides=stride,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=he_normal,
            conv_general_dilated=convolution,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activation(self.norm(self.conv(x)))


class Residual(nnx.Module):
    """activation(body(x) + shortcut(x)).

    Args:
        body: a layer.
        shortcut: another one; `identity` where the body keeps the shape.
        activation: elementwise.
    """

    def __init__(self, body: Layer, shortcut: Layer, activation: Layer = nnx.relu):
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activation(self.body(x) + self.shortcut(x))


class SqueezeExcite(nnx.Module):
    """x * sigmoid(W2 relu(W1 mean(x))): channels rescaled by the global context."""

    def __init__(
        self, width: int, reduction: int = 4, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
    ):
        self.down = nnx.Linear(width, width // reduction, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width // reduction, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        context = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * nnx.sigmoid(self.up(nnx.relu(self.down(context))))


class DenseBlock(nnx.Module):
    """Each convolution's output is concatenated to all that came before it."""

    def __init__(
        self,
        inputs: int,
        growth: int,
        depth: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        self.convs = nnx.List(
            ConvNorm(inputs + i * growth, growth, rngs=rngs, dtype=dtype) for i in range(depth)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = jnp.concatenate([x, conv(x)], axis=-1)
        return x


class Branches(nnx.Module):
    """Parallel 1x1, 3x3 and twice-3x3 branches, concatenated."""

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, int, int],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        one, three, five = widths
        make = partial(ConvNorm, rngs=rngs, dtype=dtype)
        self.one = make(inputs, one, 1)
        self.three = nnx.Sequential(make(inputs, three // 2, 1), make(three // 2, three))
        self.five = nnx.Sequential(
            make(inputs, five // 2, 1), make(five // 2, five), make(five, five)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.one(x), self.three(x), self.five(x)], axis=-1)


class PatchMixer(nnx.Module):
    """A ConvNeXt-like block: depthwise 5x5, layer norm, two dense layers with GELU, skip."""

    def __init__(
        self, width: int, expansion: int = 2, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
    ):
        self.mix = nnx.Conv(
            width,
            width,
            (5, 5),
            feature_group_count=width,
            conv_general_dilated=convolution,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, width * expansion, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(width * expansion, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(nnx.gelu(self.up(self.norm(self.mix(x)))))


class TinyNet(nnx.Module):
    """A stack of blocks and global average pooling."""

    def __init__(self, blocks: Sequence[Layer]):
        self.blocks = nnx.List(blocks)

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, 32, 32, 3) float -> (batch, width), float32 up."""
        for block in self.blocks:
            x = block(x)
        return global_average(x)


def identity(x: jax.Array) -> jax.Array:
    """The input as it is."""
    return x


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling."""
    return pooling.max_pool(x, 2, 2)


def average_pool(x: jax.Array) -> jax.Array:
    """2x2 average pooling."""
    return pooling.average_pool(x, 2, 2)


def plain(widths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> TinyNet:
    """Convolutions with max pooling between them (VGG-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Layer] = [make(3, widths[0])]
    for inputs, outputs in itertools.pairwise(widths):
        if outputs != inputs:
            blocks.append(max_pool)
        blocks.append(make(inputs, outputs))
    return TinyNet(blocks)


def resnet(
    widths: Sequence[int],
    depth: int,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    excite: bool = False,
) -> TinyNet:
    """`depth` basic blocks in each of the stages; `excite` adds squeeze-and-excitation."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Layer] = [make(3, widths[0])]
    inputs = widths[0]
    for stage, outputs in enumerate(widths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            body: list[Layer] = [
                make(inputs, outputs, stride=stride),
                make(outputs, outputs, activation=identity),
            ]
            if excite:
                body.append(SqueezeExcite(outputs, rngs=rngs, dtype=dtype))
            same = stride == 1 and inputs == outputs
            shortcut = (
                identity if same else make(inputs, outputs, 1, stride=stride, activation=identity)
            )
            blocks.append(Residual(nnx.Sequential(*body), shortcut))
            inputs = outputs
    return TinyNet(blocks)


def depthwise(widths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> TinyNet:
    """Depthwise 3x3 then 1x1 convolutions, halving the side at each stage (MobileNet-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Layer] = [make(3, widths[0], stride=2)]
    for inputs, outputs in itertools.pairwise(widths):
        blocks += [
            make(inputs, inputs, stride=2 if outputs != inputs else 1, groups=inputs),
            make(inputs, outputs, 1),
        ]
    return TinyNet(blocks)


def inverted(
    widths: Sequence[int], expansion: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
) -> TinyNet:
    """Inverted residuals with linear bottlenecks (MobileNetV2-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Layer] = [make(3, widths[0], stride=2)]
    for inputs, outputs in itertools.pairwise(widths):
        stride, wide = (2 if outputs != inputs else 1), inputs * expansion
        body = nnx.Sequential(
            make(inputs, wide, 1),
            make(wide, wide, stride=stride, groups=wide),
            make(wide, outputs, 1, activation=identity),
        )
        skip = stride == 1 and inputs == outputs
        blocks.append(Residual(body, identity, activation=identity) if skip else body)
    blocks.append(make(widths[-1], 4 * widths[-1], 1))
    return TinyNet(blocks)


def densenet(
    stem: int, growth: int, depth: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
) -> TinyNet:
    """Three dense blocks with halving transitions (DenseNet-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Layer] = [make(3, stem), average_pool]
    width = stem
    for stage in range(3):
        blocks.append(DenseBlock(width, growth, depth, rngs=rngs, dtype=dtype))
        width += growth * depth
        if stage < 2:
            blocks += [make(width, width // 2, 1), average_pool]
            width //= 2
    return TinyNet(blocks)


def inception(stem: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> TinyNet:
    """Three stages of parallel branches (Inception-like)."""
    return TinyNet(
        [
            ConvNorm(3, stem, rngs=rngs, dtype=dtype),
            max_pool,
            Branches(stem, (8, 16, 8), rngs=rngs, dtype=dtype),
            max_pool,
            Branches(32, (16, 32, 16), rngs=rngs, dtype=dtype),
            max_pool,
            Branches(64, (24, 48, 24), rngs=rngs, dtype=dtype),
        ]
    )


def convnext(widths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> TinyNet:
    """Patch embedding and large-kernel depthwise blocks with layer norm, no batch norm."""
    blocks: list[Layer] = []
    inputs = 3
    for outputs in widths:
        blocks += [
            nnx.Conv(inputs, outputs, (2, 2), strides=2, dtype=dtype, rngs=rngs),
            nnx.LayerNorm(outputs, dtype=dtype, rngs=rngs),
            PatchMixer(outputs, rngs=rngs, dtype=dtype),
        ]
        inputs = outputs
    return TinyNet(blocks)


def _spec(
    name: str, build: Callable[..., TinyNet], width: int, parameters: int, description: str
) -> ModelSpec:
    return ModelSpec(
        name=name,
        build=build,
        input_size=INPUT_SIZE,
        feature_width=width,
        preprocessing="unit",
        weights=f"{name}.safetensors",
        parameters=parameters,
        source="cifar10",
        licence="Apache-2.0",
        description=description,
        family="tiny",
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec(
        "tiny_plain", partial(plain, (16, 32, 48, 64)), 64, 46_832, "4 convolutions, max pooling"
    ),
    _spec("tiny_plain_wide", partial(plain, (24, 96)), 96, 21_624, "2 wide convolutions: shallow"),
    _spec(
        "tiny_plain_deep", partial(plain, (12, 12, 24, 24, 48, 48)), 48, 40_836, "6 convolutions"
    ),
    _spec("tiny_resnet", partial(resnet, (12, 24, 48), 1), 48, 43_740, "3 basic residual blocks"),
    _spec(
        "tiny_resnet_deep", partial(resnet, (8, 16, 32), 2), 32, 44_040, "6 basic residual blocks"
    ),
    _spec(
        "tiny_senet",
        partial(resnet, (12, 20, 40), 1, excite=True),
        40,
        32_910,
        "squeeze-and-excite",
    ),
    _spec(
        "tiny_depthwise",
        partial(depthwise, (16, 32, 64, 64, 128)),
        128,
        17_824,
        "depthwise separable",
    ),
    _spec(
        "tiny_inverted", partial(inverted, (12, 20, 20, 32), 3), 128, 13_544, "inverted residuals"
    ),
    _spec("tiny_densenet", partial(densenet, 16, 12, 3), 67, 39_384, "dense connections"),
    _spec("tiny_inception", partial(inception, 16), 96, 34_752, "parallel branches"),
    _spec(
        "tiny_convnext", partial(convnext, (20, 40, 64)), 64, 42_280, "large kernels, layer norm"
    ),
    _spec("tiny_plain_barely", partial(plain, (16, 32, 48, 64)), 64, 46_832, "barely pretrained"),
    _spec(
        "tiny_resnet_random",
        partial(resnet, (12, 24, 48), 1),
        48,
        43_740,
        "random weights: control",
    ),
)
