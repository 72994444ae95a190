"""Xception (Chollet 2017), as in Keras Applications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm, DepthwiseConv
from ncap_jax.zoo.weights.published import keras_url

# Blocks with a strided projection as shortcut: block number -> widths of its convolutions.
STRIDED = {2: (128, 128), 3: (256, 256), 4: (728, 728), 13: (728, 1024)}
MIDDLE = range(5, 13)


class SeparableNorm(nnx.Module):
    """Depthwise 3x3, pointwise convolution, batch norm; no activation."""

    def __init__(self, inputs: int, outputs: int, name: str, **options: Any):
        # One layer in Keras: both kernels carry its name.
        self.depthwise = DepthwiseConv(inputs, 3, name=name, **options)
        self.pointwise = Conv(inputs, outputs, 1, name=name, **options)
        self.norm = BatchNorm(outputs, name=f"{name}_bn", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.pointwise(self.depthwise(x)))


class Block(nnx.Module):
    """Separable convolutions with ReLU before each, and a shortcut around them.

    Args:
        inputs: input channels.
        widths: output channels of the separable convolutions.
        number: of the block, 2..13.
        shortcut: published number of the unnamed strided projection, or None: identity.
        options: `dtype` and `rngs`.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        number: int,
        shortcut: int | None = None,
        **options: Any,
    ):
        convs, width = [], inputs
        for i, outputs in enumerate(widths, start=1):
            convs.append(SeparableNorm(width, outputs, f"block{number}_sepconv{i}", **options))
            width = outputs
        self.convs = nnx.List(convs)
        self.shortcut = (
            None
            if shortcut is None
            else ConvNorm(
                Conv(inputs, width, 1, 2, name=f"conv2d_{shortcut}", **options),
                BatchNorm(width, name=f"batch_normalization_{shortcut}", **options),
                activation=None,
            )
        )
        # Block 2 follows a ReLU and has none of its own at the start.
        self.starts_with_relu = number != 2

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i, conv in enumerate(self.convs):
            y = conv(nnx.relu(y) if i or self.starts_with_relu else y)
        if self.shortcut is None:
            return y + x
        return max_pool(y, 3, 2, "SAME") + self.shortcut(x)


class Xception(Backbone):
    """Xception: two convolutions, twelve residual blocks, two separable convolutions.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}

        def stem(number: int, inputs: int, outputs: int, stride: int) -> ConvNorm:
            name = f"block1_conv{number}"
            return ConvNorm(
                Conv(inputs, outputs, 3, stride, padding="VALID", name=name, **options),
                BatchNorm(outputs, name=f"{name}_bn", **options),
            )

        self.stem = nnx.List([stem(1, 3, 32, 2), stem(2, 32, 64, 1)])
        blocks, width = [], 64
        for number in range(2, 14):
            widths = STRIDED.get(number, (728, 728, 728))
            shortcut = None if number in MIDDLE else list(STRIDED).index(number)
            blocks.append(Block(width, widths, number, shortcut, **options))
            width = widths[-1]
        self.blocks = nnx.List(blocks)
        self.top = nnx.List(
            [
                SeparableNorm(width, 1536, "block14_sepconv1", **options),
                SeparableNorm(1536, 2048, "block14_sepconv2", **options),
            ]
        )

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`block1_conv2_act`, the sums `add`, `add_1` ... `add_11`, `block14_sepconv2_act`."""
        for conv in self.stem:
            x = conv(x)
        stages = {"block1_conv2_act": x}
        for number, block in enumerate(self.blocks):
            x = block(x)
            # Keras leaves its additions unnamed and numbers them in order.
            stages[f"add_{number}" if number else "add"] = x
        for number, separable in enumerate(self.top, start=1):
            x = nnx.relu(separable(x))
            stages[f"block14_sepconv{number}_act"] = x
        return stages


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="xception",
        build=Xception,
        weights=keras_url("xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        input_size=299,
        feature_width=2048,
        parameters=20_806_952,
        preprocessing="tf",
        source="imagenet2012",
        licence="MIT",
        citation="Chollet, Xception, arXiv 1610.02357",
        description="36 separable convolutions in 14 blocks",
        family="xception",
        layout=WeightsLayout("keras", ("predictions",), md5="b0042744bf5b25fce3cb969f33bebb97"),
    ),
)
