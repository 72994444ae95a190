"""ConvNeXt-Tiny (Liu et al. 2022), named as in timm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import (
    Backbone,
    Conv,
    Dense,
    DepthwiseConv,
    LayerNorm,
    global_average,
    truncated_normal,
)
from ncap_jax.zoo.weights.published import timm_url

PUBLISHED = "convnext_tiny.fb_in1k"  # timm's name of the weights
WIDTHS = (96, 192, 384, 768)
DEPTHS = (3, 3, 9, 3)
LAYER_SCALE = 1e-6  # of a fresh network's residuals


class Block(nnx.Module):
    """x + gamma * (depthwise 7x7, layer norm, dense to four times the width, GELU, dense back).

    Args:
        width: channels in and out.
        name: published prefix.
        options: `dtype` and `rngs`.
    """

    def __init__(self, width: int, name: str, **options: Any):
        init = truncated_normal
        self.published = (("gamma", f"{name}.gamma"),)
        self.gamma = nnx.Param(jnp.full(width, LAYER_SCALE, jnp.float32))
        self.mix = DepthwiseConv(
            width, 7, bias=True, kernel_init=init, name=f"{name}.conv_dw", **options
        )
        self.norm = LayerNorm(width, name=f"{name}.norm", **options)
        self.up = Dense(width, 4 * width, kernel_init=init, name=f"{name}.mlp.fc1", **options)
        self.down = Dense(4 * width, width, kernel_init=init, name=f"{name}.mlp.fc2", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.down(nnx.gelu(self.up(self.norm(self.mix(x))), approximate=False))
        return x + y * self.gamma[...].astype(y.dtype)


class Stage(nnx.Module):
    """Downsampling (none in the first stage), then blocks.

    Args:
        inputs: input channels.
        width: output channels.
        depth: number of blocks.
        number: of the stage, from 0.
        options: `dtype` and `rngs`.
    """

    def __init__(self, inputs: int, width: int, depth: int, number: int, **options: Any):
        name = f"stages.{number}"
        self.downsample = (
            nnx.List(
                [
                    LayerNorm(inputs, name=f"{name}.downsample.0", **options),
                    _patchify(inputs, width, 2, f"{name}.downsample.1", **options),
                ]
            )
            if number
            else nnx.List([])
        )
        self.blocks = nnx.List(
            [Block(width, f"{name}.blocks.{i}", **options) for i in range(depth)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in (*self.downsample, *self.blocks):
            x = layer(x)
        return x


class ConvNeXt(Backbone):
    """ConvNeXt-Tiny; its features are the averages behind the classifier's layer norm.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = _patchify(3, WIDTHS[0], 4, "stem.0", **options)
        self.stem_norm = LayerNorm(WIDTHS[0], name="stem.1", **options)
        inputs = (WIDTHS[0], *WIDTHS[:-1])
        self.parts = nnx.List(
            [Stage(*shape, i, **options) for i, shape in enumerate(zip(inputs, WIDTHS, DEPTHS))]
        )
        self.norm = LayerNorm(WIDTHS[-1], name="head.norm", rngs=rngs)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`stem`, `stages.0` ... `stages.3`."""
        x = self.stem_norm(self.stem(x))
        stages = {"stem": x}
        for number, part in enumerate(self.parts):
            x = part(x)
            stages[f"stages.{number}"] = x
        return stages

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, already preprocessed -> (batch, 768), float32 up."""
        return self.norm(global_average(self.stages(x)["stages.3"]))


def _patchify(inputs: int, width: int, side: int, name: str, **options: Any) -> Conv:
    """A convolution whose stride is its side."""
    return Conv(
        inputs,
        width,
        side,
        side,
        padding="VALID",
        bias=True,
        kernel_init=truncated_normal,
        name=name,
        **options,
    )


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="convnext_tiny",
        build=ConvNeXt,
        input_size=224,
        feature_width=WIDTHS[-1],
        preprocessing="torch",
        weights=timm_url(PUBLISHED),
        parameters=27_820_128,
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Liu et al., A ConvNet for the 2020s, arXiv 2201.03545",
        description="18 blocks of 7x7 depthwise convolutions with layer norm",
        family="convnext",
        layout=WeightsLayout("torch", ("head.fc",), file=f"{PUBLISHED}.safetensors"),
    ),
)
