"""Inception-ResNet v2 (Szegedy et al. 2017), as in Keras Applications."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.inception import STEM, Branch, Branches, Maker, Pool, Stem, Step
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm
from ncap_jax.zoo.weights.published import keras_url

MIXED_5B: tuple[Branch, ...] = (
    (Step(96),),
    (Step(48), Step(64, 5)),
    (Step(64), Step(96, 3), Step(96, 3)),
    (Pool("average"), Step(64)),
)
BLOCK_35: tuple[Branch, ...] = (
    (Step(32),),
    (Step(32), Step(32, 3)),
    (Step(32), Step(48, 3), Step(64, 3)),
)
MIXED_6A: tuple[Branch, ...] = (
    (Step(384, 3, 2, "VALID"),),
    (Step(256), Step(256, 3), Step(384, 3, 2, "VALID")),
    (Pool("max"),),
)
BLOCK_17: tuple[Branch, ...] = (
    (Step(192),),
    (Step(128), Step(160, (1, 7)), Step(192, (7, 1))),
)
MIXED_7A: tuple[Branch, ...] = (
    (Step(256), Step(384, 3, 2, "VALID")),
    (Step(256), Step(288, 3, 2, "VALID")),
    (Step(256), Step(288, 3), Step(320, 3, 2, "VALID")),
    (Pool("max"),),
)
BLOCK_8: tuple[Branch, ...] = (
    (Step(192),),
    (Step(192), Step(224, (1, 3)), Step(256, (3, 1))),
)
# (name of the joining module or None, its branches; then name, branches, number, scale of blocks)
STACKS = (
    ("mixed_5b", MIXED_5B, "block35", BLOCK_35, 10, 0.17),
    ("mixed_6a", MIXED_6A, "block17", BLOCK_17, 20, 0.1),
    ("mixed_7a", MIXED_7A, "block8", BLOCK_8, 10, 0.2),
)


class ResidualBranches(nnx.Module):
    """x + scale * up(branches(x)), `up` a linear 1x1 convolution with bias; ReLU but in the last.

    Args:
        make: numbers the unnamed convolutions.
        width: channels in and out.
        branches: of the block.
        scale: of the residual.
        name: published name of the block.
        activate: whether ReLU follows.
        options: `dtype` and `rngs`.
    """

    def __init__(
        self,
        make: Maker,
        width: int,
        branches: tuple[Branch, ...],
        scale: float,
        name: str,
        *,
        activate: bool,
        **options: Any,
    ):
        self.branches = Branches(make, width, branches)
        self.up = Conv(self.branches.width, width, 1, bias=True, name=f"{name}_conv", **options)
        self.scale = scale
        self.activate = activate

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x + self.up(self.branches(x)) * self.scale
        return nnx.relu(y) if self.activate else y


class InceptionResNetV2(Backbone):
    """Inception-ResNet v2.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        make = Maker(**options)
        self.stem = Stem(make)
        mixed, stacks, width = [], [], STEM[-1].width
        for _, joining, name, branches, number, scale in STACKS:
            module = Branches(make, width, joining)
            mixed.append(module)
            width = module.width
            blocks = []
            for n in range(1, number + 1):
                last = name == "block8" and n == number  # at full scale, and linear
                blocks.append(
                    ResidualBranches(
                        make,
                        width,
                        branches,
                        1.0 if last else scale,
                        f"{name}_{n}",
                        activate=not last,
                        **options,
                    )
                )
            stacks.append(nnx.List(blocks))
        self.mixed = nnx.List(mixed)
        self.stacks = nnx.List(stacks)
        self.top = ConvNorm(
            Conv(width, 1536, 1, name="conv_7b", **options),
            BatchNorm(1536, scale=False, name="conv_7b_bn", **options),
        )

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`mixed_5b`, `block35_1_ac` ..., `mixed_6a`, ..., `mixed_7a`, ..., `conv_7b_ac`."""
        x = self.stem(x)
        stages = {}
        for module, blocks, (joined, _, name, *_) in zip(self.mixed, self.stacks, STACKS):
            x = module(x)
            stages[joined] = x
            for number, block in enumerate(blocks, start=1):
                x = block(x)
                # The last block has no activation, hence no published name.
                stages[f"{name}_{number}_{'ac' if block.activate else 'sum'}"] = x
        stages["conv_7b_ac"] = self.top(x)
        return stages


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="inceptionresnetv2",
        build=InceptionResNetV2,
        weights=keras_url(
            "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
        ),
        input_size=299,
        feature_width=1536,
        parameters=54_276_192,
        preprocessing="tf",
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Szegedy et al., Inception-v4, Inception-ResNet, arXiv 1602.07261",
        description="40 residual blocks of parallel branches",
        family="inceptionresnet",
        layout=WeightsLayout("keras", ("predictions",), md5="d19885ff4a710c122648d3b5c3b684e4"),
    ),
)
