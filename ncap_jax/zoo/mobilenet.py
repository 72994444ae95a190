"""MobileNet v1 (Howard et al. 2017) and v2 (Sandler et al. 2018), as in Keras Applications."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import Padding
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm, DepthwiseConv, relu6
from ncap_jax.zoo.weights.published import keras_url

# v1: (output channels at alpha 1, stride) of the depthwise separable blocks 1..13.
SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
# v2: (output channels at alpha 1, stride, expansion) of the inverted residual blocks 0..16.
INVERTED = (
    (16, 1, 1),
    (24, 2, 6),
    (24, 1, 6),
    (32, 2, 6),
    *((32, 1, 6),) * 2,
    (64, 2, 6),
    *((64, 1, 6),) * 3,
    *((96, 1, 6),) * 3,
    (160, 2, 6),
    *((160, 1, 6),) * 2,
    (320, 1, 6),
)
MOMENTUM_V2 = 0.999
# v1 pads the strided depthwise convolutions at the bottom and right only.
BOTTOM_RIGHT: Padding = ((0, 1), (0, 1))


class SeparableBlock(nnx.Module):
    """Depthwise 3x3, then pointwise convolution, each with batch norm and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int, number: int, **options: Any):
        padding: Padding = "SAME" if stride == 1 else BOTTOM_RIGHT
        dw, pw = f"conv_dw_{number}", f"conv_pw_{number}"
        self.depthwise = ConvNorm(
            DepthwiseConv(inputs, 3, stride, padding=padding, name=dw, **options),
            BatchNorm(inputs, name=f"{dw}_bn", **options),
            relu6,
        )
        self.pointwise = ConvNorm(
            Conv(inputs, outputs, 1, name=pw, **options),
            BatchNorm(outputs, name=f"{pw}_bn", **options),
            relu6,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pointwise(self.depthwise(x))


class MobileNet(Backbone):
    """MobileNet v1.

    Args:
        alpha: width multiplier.
        depth: number of separable blocks, 13 in the published network.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        depth: int = len(SEPARABLE),
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        width = int(32 * alpha)
        self.stem = ConvNorm(
            Conv(3, width, 3, 2, name="conv1", **options),
            BatchNorm(width, name="conv1_bn", **options),
            relu6,
        )
        blocks = []
        for number, (channels, stride) in enumerate(SEPARABLE[:depth], start=1):
            outputs = int(channels * alpha)
            blocks.append(SeparableBlock(width, outputs, stride, number, **options))
            width = outputs
        self.blocks = nnx.List(blocks)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`conv1_relu`, `conv_pw_1_relu` ... `conv_pw_13_relu`."""
        x = self.stem(x)
        stages = {"conv1_relu": x}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            stages[f"conv_pw_{number}_relu"] = x
        return stages


class InvertedResidual(nnx.Module):
    """Pointwise expansion, depthwise 3x3, linear pointwise projection; skip where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, prefix: str, **options: Any
    ):
        def norm(width: int, kind: str) -> BatchNorm:
            return BatchNorm(width, momentum=MOMENTUM_V2, name=f"{prefix}_{kind}_BN", **options)

        wide = inputs * expansion
        expand = f"{prefix}_expand"
        self.expand = (
            ConvNorm(Conv(inputs, wide, 1, name=expand, **options), norm(wide, "expand"), relu6)
            if expansion > 1
            else None
        )
        # Keras pads by hand before the strided convolutions; the outcome is what "SAME" gives.
        self.depthwise = ConvNorm(
            DepthwiseConv(wide, 3, stride, name=f"{prefix}_depthwise", **options),
            norm(wide, "depthwise"),
            relu6,
        )
        self.project = ConvNorm(
            Conv(wide, outputs, 1, name=f"{prefix}_project", **options),
            norm(outputs, "project"),
            activation=None,
        )
        self.skip = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.skip else y


class MobileNetV2(Backbone):
    """MobileNet v2.

    Args:
        alpha: width multiplier; the last layer is widened only by alpha > 1.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, alpha: float = 1.0, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        width = divisible_by_8(32 * alpha)
        self.stem = ConvNorm(
            Conv(3, width, 3, 2, name="Conv1", **options),
            BatchNorm(width, momentum=MOMENTUM_V2, name="bn_Conv1", **options),
            relu6,
        )
        blocks = []
        for number, (channels, stride, expansion) in enumerate(INVERTED):
            outputs = divisible_by_8(int(channels * alpha))
            blocks.append(
                InvertedResidual(width, outputs, stride, expansion, _prefix(number), **options)
            )
            width = outputs
        self.blocks = nnx.List(blocks)
        outputs = divisible_by_8(1280 * max(alpha, 1.0))
        self.top = ConvNorm(
            Conv(width, outputs, 1, name="Conv_1", **options),
            BatchNorm(outputs, momentum=MOMENTUM_V2, name="Conv_1_bn", **options),
            relu6,
        )

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`Conv1_relu`, each block's `..._add` or `..._project_BN`, and `out_relu`."""
        x = self.stem(x)
        stages = {"Conv1_relu": x}
        for number, block in enumerate(self.blocks):
            x = block(x)
            stages[f"{_prefix(number)}_{'add' if block.skip else 'project_BN'}"] = x
        stages["out_relu"] = self.top(x)
        return stages


def _prefix(number: int) -> str:
    return f"block_{number}" if number else "expanded_conv"


def divisible_by_8(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, not more than 10% below it, at least 8."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _v1(name: str, alpha: float, parameters: int) -> ModelSpec:
    text = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}[alpha]
    return ModelSpec(
        name=name,
        build=partial(MobileNet, alpha),
        input_size=224,
        weights=keras_url(f"mobilenet/mobilenet_{text}_224_tf_no_top.h5"),
        feature_width=int(1024 * alpha),
        parameters=parameters,
        preprocessing="tf",
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Howard et al., MobileNets, arXiv 1704.04861",
        description=f"13 depthwise separable blocks, width x{alpha:g}",
        family="mobilenet",
        layout=WeightsLayout("keras", ("conv_preds",)),
    )


def _cut() -> ModelSpec:
    """The first 12 blocks: what a circulating file of the full network without one kernel gives."""
    full = _v1("mobilenet_12blocks", 1.0, 2_145_088)
    beyond = ("conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn")
    return dataclasses.replace(
        full,
        build=partial(MobileNet, 1.0, 12),
        description="the first 12 of 13 depthwise separable blocks, width x1",
        layout=dataclasses.replace(
            full.layout,
            classifier=(*full.layout.classifier, *beyond),
            other_files=("mobilenet_1_0_224_tf_no_top_without_conv_pw_13_kernel.safetensors",),
        ),
    )


def _v2(name: str, alpha: float, parameters: int) -> ModelSpec:
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    return ModelSpec(
        name=name,
        build=partial(MobileNetV2, alpha),
        input_size=224,
        weights=keras_url(f"mobilenet_v2/{file}"),
        feature_width=divisible_by_8(1280 * max(alpha, 1.0)),
        parameters=parameters,
        preprocessing="tf",
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Sandler et al., MobileNetV2, CVPR 2018, arXiv 1801.04381",
        description=f"17 inverted residual blocks, width x{alpha:g}",
        family="mobilenetv2",
        layout=WeightsLayout("keras", ("predictions", "Logits")),
    )


SPECS: tuple[ModelSpec, ...] = (
    _v1("mobilenet_025", 0.25, 213_072),
    _v1("mobilenet_050", 0.5, 818_592),
    _v1("mobilenet_075", 0.75, 1_816_560),
    _v1("mobilenet", 1.0, 3_206_976),
    _cut(),
    _v2("mobilenetv2_035", 0.35, 396_128),
    _v2("mobilenetv2_050", 0.5, 687_680),
    _v2("mobilenetv2_075", 0.75, 1_355_424),
    _v2("mobilenetv2", 1.0, 2_223_872),
    _v2("mobilenetv2_130", 1.3, 3_721_792),
    _v2("mobilenetv2_140", 1.4, 4_315_776),
)
