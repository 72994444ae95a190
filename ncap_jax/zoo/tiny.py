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

from ncap_jax.capacitance.depthwise import convolution
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import layers

INPUT_SIZE = 32


class ConvNorm(nnx.Module):
    """Convolution without bias -> batch norm -> activation."""

    def __init__(self, cin, cout, kernel=3, *, stride=1, groups=1, act=nnx.relu, rngs, dtype=None):
        size = (kernel, kernel)
        self.conv = nnx.Conv(
            cin,
            cout,
            size,
            strides=stride,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            conv_general_dilated=convolution,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(cout, momentum=0.9, dtype=dtype, rngs=rngs)
        self.act = act

    def __call__(self, x):
        return self.act(self.norm(self.conv(x)))


class Residual(nnx.Module):
    """relu(body(x) + shortcut(x)); the shortcut is a 1x1 projection where the shape changes."""

    def __init__(self, body, cin, cout, stride=1, *, act=nnx.relu, rngs, dtype=None):
        self.body = body
        make = partial(ConvNorm, cin, cout, 1, stride=stride, act=_identity)
        same = stride == 1 and cin == cout
        self.shortcut = _identity if same else make(rngs=rngs, dtype=dtype)
        self.act = act

    def __call__(self, x):
        return self.act(self.body(x) + self.shortcut(x))


class SqueezeExcite(nnx.Module):
    """x * sigmoid(W2 relu(W1 mean(x))): channels rescaled by the global context."""

    def __init__(self, width, reduction=4, *, rngs, dtype=None):
        self.down = nnx.Linear(width, width // reduction, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width // reduction, width, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        context = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * nnx.sigmoid(self.up(nnx.relu(self.down(context))))


class DenseBlock(nnx.Module):
    """Each convolution's output is concatenated to all that came before it."""

    def __init__(self, cin, growth, depth, *, rngs, dtype=None):
        self.convs = nnx.List(
            ConvNorm(cin + i * growth, growth, rngs=rngs, dtype=dtype) for i in range(depth)
        )

    def __call__(self, x):
        for conv in self.convs:
            x = jnp.concatenate([x, conv(x)], axis=-1)
        return x


class Branches(nnx.Module):
    """Parallel 1x1, 3x3 and twice-3x3 branches, concatenated."""

    def __init__(self, cin, widths, *, rngs, dtype=None):
        one, three, five = widths
        make = partial(ConvNorm, rngs=rngs, dtype=dtype)
        self.one = make(cin, one, 1)
        self.three = nnx.Sequential(make(cin, three // 2, 1), make(three // 2, three))
        self.five = nnx.Sequential(make(cin, five // 2, 1), make(five // 2, five), make(five, five))

    def __call__(self, x):
        return jnp.concatenate([self.one(x), self.three(x), self.five(x)], axis=-1)


class PatchMixer(nnx.Module):
    """A ConvNeXt-like block: depthwise 5x5, layer norm, two dense layers with GELU, skip."""

    def __init__(self, width, expansion=2, *, rngs, dtype=None):
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

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(self.mix(x)))))


class TinyNet(nnx.Module):
    """A stack of blocks and global average pooling."""

    def __init__(self, blocks: Sequence[Callable]):
        self.blocks = nnx.List(blocks)

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, 32, 32, 3) float -> (batch, width), float32 up."""
        for block in self.blocks:
            x = block(x)
        return layers.global_average(x)


def _identity(x):
    return x


def max_pool(x):
    """2x2 max pooling."""
    return layers.max_pool(x, 2, 2)


def avg_pool(x):
    """2x2 average pooling."""
    return nnx.avg_pool(x, (2, 2), strides=(2, 2))


def plain(widths, *, rngs, dtype=None) -> TinyNet:
    """Convolutions with max pooling between them (VGG-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Callable] = [make(3, widths[0])]
    for cin, cout in itertools.pairwise(widths):
        if cout != cin:
            blocks.append(max_pool)
        blocks.append(make(cin, cout))
    return TinyNet(blocks)


def resnet(widths, depth, *, rngs, dtype=None, excite=False) -> TinyNet:
    """`depth` basic blocks in each of the stages; `excite` adds squeeze-and-excitation."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Callable] = [make(3, widths[0])]
    cin = widths[0]
    for stage, cout in enumerate(widths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            body: list[Callable] = [make(cin, cout, stride=stride), make(cout, cout, act=_identity)]
            if excite:
                body.append(SqueezeExcite(cout, rngs=rngs, dtype=dtype))
            blocks.append(
                Residual(nnx.Sequential(*body), cin, cout, stride, rngs=rngs, dtype=dtype)
            )
            cin = cout
    return TinyNet(blocks)


def depthwise(widths, *, rngs, dtype=None) -> TinyNet:
    """Depthwise 3x3 then 1x1 convolutions, halving the side at each stage (MobileNet-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Callable] = [make(3, widths[0], stride=2)]
    for cin, cout in itertools.pairwise(widths):
        blocks += [
            make(cin, cin, stride=2 if cout != cin else 1, groups=cin),
            make(cin, cout, 1),
        ]
    return TinyNet(blocks)


def inverted(widths, expansion, *, rngs, dtype=None) -> TinyNet:
    """Inverted residuals with linear bottlenecks (MobileNetV2-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Callable] = [make(3, widths[0], stride=2)]
    for cin, cout in itertools.pairwise(widths):
        stride, wide = (2 if cout != cin else 1), cin * expansion
        body = nnx.Sequential(
            make(cin, wide, 1),
            make(wide, wide, stride=stride, groups=wide),
            make(wide, cout, 1, act=_identity),
        )
        skip = stride == 1 and cin == cout
        blocks.append(
            Residual(body, cin, cout, act=_identity, rngs=rngs, dtype=dtype) if skip else body
        )
    blocks.append(make(widths[-1], 4 * widths[-1], 1))
    return TinyNet(blocks)


def densenet(stem, growth, depth, *, rngs, dtype=None) -> TinyNet:
    """Three dense blocks with halving transitions (DenseNet-like)."""
    make = partial(ConvNorm, rngs=rngs, dtype=dtype)
    blocks: list[Callable] = [make(3, stem), avg_pool]
    width = stem
    for stage in range(3):
        blocks.append(DenseBlock(width, growth, depth, rngs=rngs, dtype=dtype))
        width += growth * depth
        if stage < 2:
            blocks += [make(width, width // 2, 1), avg_pool]
            width //= 2
    return TinyNet(blocks)


def inception(stem, *, rngs, dtype=None) -> TinyNet:
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


def convnext(widths, *, rngs, dtype=None) -> TinyNet:
    """Patch embedding and large-kernel depthwise blocks with layer norm, no batch norm."""
    blocks: list[Callable] = []
    cin = 3
    for cout in widths:
        blocks += [
            nnx.Conv(cin, cout, (2, 2), strides=2, dtype=dtype, rngs=rngs),
            nnx.LayerNorm(cout, dtype=dtype, rngs=rngs),
            PatchMixer(cout, rngs=rngs, dtype=dtype),
        ]
        cin = cout
    return TinyNet(blocks)


def _spec(name: str, build: Callable, width: int, parameters: int, description: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        build=build,
        input_size=INPUT_SIZE,
        feature_width=width,
        preprocessing="unit",
        weights=f"{name}.safetensors",
        parameters=parameters,
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
