"""Inception v3 (Szegedy et al. 2016), as in Keras Applications.

A module is a list of branches, a branch a list of steps. Keras leaves the convolutions unnamed;
the n-th made is `conv2d_n`, its norm `batch_normalization_n`, so the branches below stand in
Keras's order of making.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import Padding, average_pool, max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import (
    Backbone,
    BatchNorm,
    Conv,
    ConvNorm,
    Size,
    concat,
)
from ncap_jax.zoo.weights.published import keras_url


class Step(NamedTuple):
    """One convolution of a branch: output channels, kernel, stride, padding."""

    width: int
    kernel: Size = 1
    stride: int = 1
    padding: Padding = "SAME"


class Pool(NamedTuple):
    """3x3 pooling at the start of a branch."""

    kind: str  # "average" (stride 1, "SAME") or "max" (stride 2, "VALID")


Branch = tuple[Step | Pool, ...]


class Maker:
    """Makes unnamed convolutions with batch norm (no scale) and ReLU, numbered in order."""

    def __init__(self, **options: Any):
        self.made = 0
        self.options = options

    def conv(self, inputs: int, step: Step) -> ConvNorm:
        """The next convolution."""
        number, self.made = self.made, self.made + 1
        width, kernel, stride, padding = step
        return ConvNorm(
            Conv(
                inputs,
                width,
                kernel,
                stride,
                padding=padding,
                name=f"conv2d_{number}",
                **self.options,
            ),
            BatchNorm(width, scale=False, name=f"batch_normalization_{number}", **self.options),
        )

    def branches(self, inputs: int, branches: Sequence[Branch]) -> Branches:
        """Parallel branches, joined."""
        return Branches(self, inputs, branches)


class Branches(nnx.Module):
    """Parallel branches over one input, concatenated along the channels."""

    def __init__(self, make: Maker, inputs: int, branches: Sequence[Branch]):
        self.pools = tuple(
            next((step.kind for step in branch if isinstance(step, Pool)), None)
            for branch in branches
        )
        made, self.width = [], 0
        for branch in branches:
            convs, width = [], inputs
            for step in branch:
                if isinstance(step, Step):
                    convs.append(make.conv(width, step))
                    width = step.width
            made.append(nnx.List(convs))
            self.width += width
        self.branches = nnx.List(made)

    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        for pool, convs in zip(self.pools, self.branches):
            y = x
            if pool is not None:
                y = average_pool(x, 3, 1, "SAME") if pool == "average" else max_pool(x, 3, 2)
            for conv in convs:
                y = conv(y)
            outputs.append(y)
        return concat(outputs)


class Forked(nnx.Module):
    """The 8x8 modules: two of the branches end in a fork of a 1x3 and a 3x1 convolution."""

    def __init__(self, make: Maker, inputs: int):
        self.single = make.conv(inputs, Step(320))
        self.reduce = make.conv(inputs, Step(384))
        self.fork = nnx.List([make.conv(384, Step(384, k)) for k in ((1, 3), (3, 1))])
        self.double = nnx.List([make.conv(inputs, Step(448)), make.conv(448, Step(384, 3))])
        self.double_fork = nnx.List([make.conv(384, Step(384, k)) for k in ((1, 3), (3, 1))])
        self.pooled = make.conv(inputs, Step(192))
        self.width = 320 + 2 * 384 + 2 * 384 + 192

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.reduce(x)
        z = x
        for conv in self.double:
            z = conv(z)
        return concat(
            [
                self.single(x),
                *(conv(y) for conv in self.fork),
                *(conv(z) for conv in self.double_fork),
                self.pooled(average_pool(x, 3, 1, "SAME")),
            ]
        )


def _module_35(pooled: int) -> tuple[Branch, ...]:
    return (
        (Step(64),),
        (Step(48), Step(64, 5)),
        (Step(64), Step(96, 3), Step(96, 3)),
        (Pool("average"), Step(pooled)),
    )


def _module_17(width: int) -> tuple[Branch, ...]:
    row, column = (1, 7), (7, 1)
    return (
        (Step(192),),
        (Step(width), Step(width, row), Step(192, column)),
        (
            Step(width),
            Step(width, column),
            Step(width, row),
            Step(width, column),
            Step(192, row),
        ),
        (Pool("average"), Step(192)),
    )


REDUCE_35: tuple[Branch, ...] = (
    (Step(384, 3, 2, "VALID"),),
    (Step(64), Step(96, 3), Step(96, 3, 2, "VALID")),
    (Pool("max"),),
)
REDUCE_17: tuple[Branch, ...] = (
    (Step(192), Step(320, 3, 2, "VALID")),
    (Step(192), Step(192, (1, 7)), Step(192, (7, 1)), Step(192, 3, 2, "VALID")),
    (Pool("max"),),
)
MODULES: tuple[tuple[Branch, ...], ...] = (
    *(_module_35(pooled) for pooled in (32, 64, 64)),
    REDUCE_35,
    *(_module_17(width) for width in (128, 160, 160, 192)),
    REDUCE_17,
)
STEM = (
    Step(32, 3, 2, "VALID"),
    Step(32, 3, 1, "VALID"),
    Step(64, 3),
    Step(80, 1, 1, "VALID"),
    Step(192, 3, 1, "VALID"),
)
# The stem pools after these of its convolutions.
POOLED_AFTER = (2, 4)


class Stem(nnx.Module):
    """Five convolutions and two max poolings, shared by Inception v3 and Inception-ResNet v2."""

    def __init__(self, make: Maker):
        convs, width = [], 3
        for step in STEM:
            convs.append(make.conv(width, step))
            width = step.width
        self.convs = nnx.List(convs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if number in POOLED_AFTER:
                x = max_pool(x, 3, 2)
        return x


class InceptionV3(Backbone):
    """Inception v3.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        make = Maker(dtype=dtype, rngs=rngs)
        self.stem = Stem(make)
        mixed: list[nnx.Module] = []
        width = STEM[-1].width
        for branches in MODULES:
            module = Branches(make, width, branches)
            mixed.append(module)
            width = module.width
        for _ in range(2):
            forked = Forked(make, width)
            mixed.append(forked)
            width = forked.width
        self.mixed = nnx.List(mixed)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`mixed0` ... `mixed10`."""
        x = self.stem(x)
        stages = {}
        for number, module in enumerate(self.mixed):
            x = module(x)
            stages[f"mixed{number}"] = x
        return stages


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="inceptionv3",
        build=InceptionV3,
        weights=keras_url("inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        input_size=299,
        feature_width=2048,
        parameters=21_768_352,
        preprocessing="tf",
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Szegedy et al., Rethinking the Inception Architecture, arXiv 1512.00567",
        description="94 convolutions in 11 modules of parallel branches",
        family="inception",
        layout=WeightsLayout("keras", ("predictions",), md5="bcbd6486424b2319ff4ef7d526e38f63"),
    ),
)
