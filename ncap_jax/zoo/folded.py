"""MobileNet v1 and v2 with batch norm folded into convolution and bias.

The form of the quantized TensorFlow Lite files of github.com/google-coral/test_data; the weights
are those files' integers times their scale. Other trainings than Keras's, at smaller inputs.
Without batch norm they fine-tune differently: lower the learning rate if they diverge.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, Conv, DepthwiseConv, he_uniform, relu6
from ncap_jax.zoo.mobilenet import INVERTED, SEPARABLE, divisible_by_8

# Without batch norm the initialisation itself must keep the signal alive.
CONV: dict[str, Any] = {"bias": True, "kernel_init": he_uniform}


class FoldedMobileNet(Backbone):
    """MobileNet v1 without batch norm, TensorFlow's "SAME" padding throughout.

    Args:
        alpha: width multiplier.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, alpha: float = 1.0, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {**CONV, "dtype": dtype, "rngs": rngs}
        width = int(32 * alpha)
        self.stem = Conv(3, width, 3, 2, name="Conv2d_0", **options)
        depthwise, pointwise = [], []
        for number, (channels, stride) in enumerate(SEPARABLE, start=1):
            name, outputs = f"Conv2d_{number}", int(channels * alpha)
            depthwise.append(DepthwiseConv(width, 3, stride, name=f"{name}_depthwise", **options))
            pointwise.append(Conv(width, outputs, 1, name=f"{name}_pointwise", **options))
            width = outputs
        self.depthwise = nnx.List(depthwise)
        self.pointwise = nnx.List(pointwise)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`Conv2d_0`, `Conv2d_1_pointwise` ... `Conv2d_13_pointwise`, after ReLU6."""
        x = relu6(self.stem(x))
        stages = {"Conv2d_0": x}
        for number, pair in enumerate(zip(self.depthwise, self.pointwise), start=1):
            for conv in pair:
                x = relu6(conv(x))
            stages[f"Conv2d_{number}_pointwise"] = x
        return stages


class FoldedInverted(nnx.Module):
    """Expansion, depthwise 3x3, linear projection, all with bias; skip where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, name: str, **options: Any
    ):
        wide = inputs * expansion
        expand = Conv(inputs, wide, 1, name=f"{name}/expand", **options) if expansion > 1 else None
        self.expand = expand
        self.depthwise = DepthwiseConv(wide, 3, stride, name=f"{name}/depthwise", **options)
        self.project = Conv(wide, outputs, 1, name=f"{name}/project", **options)
        self.skip = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.depthwise(y)))
        return x + y if self.skip else y


class FoldedMobileNetV2(Backbone):
    """MobileNet v2 without batch norm, width 1.0.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {**CONV, "dtype": dtype, "rngs": rngs}
        self.stem = Conv(3, 32, 3, 2, name="Conv", **options)
        blocks, width = [], 32
        for number, (channels, stride, expansion) in enumerate(INVERTED):
            outputs = divisible_by_8(channels)
            blocks.append(
                FoldedInverted(width, outputs, stride, expansion, _name(number), **options)
            )
            width = outputs
        self.blocks = nnx.List(blocks)
        self.top = Conv(width, 1280, 1, name="Conv_1", **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`Conv`, `expanded_conv`, `expanded_conv_1` ... `expanded_conv_16`, `Conv_1`."""
        x = relu6(self.stem(x))
        stages = {"Conv": x}
        for number, block in enumerate(self.blocks):
            x = block(x)
            stages[_name(number)] = x
        stages["Conv_1"] = relu6(self.top(x))
        return stages


def _name(number: int) -> str:
    return f"expanded_conv_{number}" if number else "expanded_conv"


def _file(name: str) -> str:
    return f"tflite_mobilenet_{name}_dequantized_no_top.safetensors"


def _v1(name: str, alpha: float, size: int, parameters: int, suffix: str = "") -> ModelSpec:
    return ModelSpec(
        name=name,
        build=partial(FoldedMobileNet, alpha),
        input_size=size,
        feature_width=int(1024 * alpha),
        preprocessing="tflite",
        weights=_file(f"v1_{alpha}_{size}_quant{suffix}"),
        parameters=parameters,
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Howard et al., MobileNets, arXiv 1704.04861",
        description="MobileNet with folded batch norm, trained on ImageNet",
        family="folded",
        layout=WeightsLayout("keras"),
    )


def _v2(name: str, suffix: str, source: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        build=FoldedMobileNetV2,
        input_size=224,
        feature_width=1280,
        preprocessing="tflite",
        weights=_file(f"v2_1.0_224{suffix}_quant"),
        parameters=2_206_816,
        source="" if suffix else "imagenet2012",
        licence="Apache-2.0",
        citation="Sandler et al., MobileNetV2, CVPR 2018, arXiv 1801.04381",
        description=f"MobileNet v2 with folded batch norm, trained on {source}",
        family="folded",
        layout=WeightsLayout("keras"),
    )


SPECS: tuple[ModelSpec, ...] = (
    _v1("mobilenet_025_folded", 0.25, 128, 210_336),
    _v1("mobilenet_050_folded", 0.5, 160, 813_120),
    _v1("mobilenet_075_folded", 0.75, 192, 1_808_352),
    _v1("mobilenet_folded", 1.0, 224, 3_196_032, "_embedding_extractor"),
    _v2("mobilenetv2_folded", "", "ImageNet"),
    _v2("mobilenetv2_folded_birds", "_inat_bird", "iNaturalist birds"),
    _v2("mobilenetv2_folded_insects", "_inat_insect", "iNaturalist insects"),
)
