"""VGG-16 and VGG-19 (Simonyan & Zisserman 2015), as in Keras Applications."""

from __future__ import annotations

from functools import partial

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, Conv
from ncap_jax.zoo.weights.published import keras_url

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """Five blocks of 3x3 convolutions with bias and ReLU, each ended by 2x2 max pooling.

    Args:
        depths: number of convolutions in each block.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, depths: tuple[int, ...], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        blocks, inputs = [], 3
        for block, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), start=1):
            convs = []
            for number in range(1, depth + 1):
                name = f"block{block}_conv{number}"
                convs.append(Conv(inputs, width, 3, bias=True, name=name, dtype=dtype, rngs=rngs))
                inputs = width
            blocks.append(nnx.List(convs))
        self.blocks = nnx.List(blocks)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`block1_pool` ... `block5_pool`."""
        stages = {}
        for number, convs in enumerate(self.blocks, start=1):
            for conv in convs:
                x = nnx.relu(conv(x))
            x = max_pool(x, 2, 2)
            stages[f"block{number}_pool"] = x
        return stages


def _spec(name: str, depths: tuple[int, ...], parameters: int, md5: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        build=partial(VGG, depths),
        input_size=224,
        weights=keras_url(f"{name}/{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        feature_width=512,
        parameters=parameters,
        preprocessing="caffe",
        source="imagenet2012",
        licence="CC-BY-4.0",
        citation="Simonyan & Zisserman, Very Deep Convolutional Networks, arXiv 1409.1556",
        description=f"{sum(depths)} convolutions in 5 blocks",
        family="vgg",
        layout=WeightsLayout("keras", ("fc1", "fc2", "predictions"), md5=md5),
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec("vgg16", (2, 2, 3, 3, 3), 14_714_688, "6d6bbae143d832006294945121d1f1fc"),
    _spec("vgg19", (2, 2, 4, 4, 4), 20_024_384, "253f8cb515780f3b799900260a226db6"),
)
