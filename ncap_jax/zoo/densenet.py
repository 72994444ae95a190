"""DenseNet-121, -169 and -201 (Huang et al. 2017), as in Keras Applications."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import average_pool, zero_padded_max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import (
    Backbone,
    BatchNorm,
    Conv,
    ConvNorm,
    concat,
)
from ncap_jax.zoo.weights.published import keras_url

EPSILON = 1.001e-5
GROWTH = 32


class DenseUnit(nnx.Module):
    """Appends 32 channels: norm, ReLU, 1x1 to 128 channels, norm, ReLU, 3x3."""

    def __init__(self, inputs: int, prefix: str, **options: Any):
        wide = 4 * GROWTH
        self.norm = BatchNorm(inputs, epsilon=EPSILON, name=f"{prefix}_0_bn", **options)
        self.reduce = ConvNorm(
            Conv(inputs, wide, 1, name=f"{prefix}_1_conv", **options),
            BatchNorm(wide, epsilon=EPSILON, name=f"{prefix}_1_bn", **options),
        )
        self.conv = Conv(wide, GROWTH, 3, name=f"{prefix}_2_conv", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return concat([x, self.conv(self.reduce(nnx.relu(self.norm(x))))])


class Transition(nnx.Module):
    """Halves channels and side: norm, ReLU, 1x1, 2x2 average pooling."""

    def __init__(self, inputs: int, prefix: str, **options: Any):
        self.norm = BatchNorm(inputs, epsilon=EPSILON, name=f"{prefix}_bn", **options)
        self.conv = Conv(inputs, inputs // 2, 1, name=f"{prefix}_conv", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return average_pool(self.conv(nnx.relu(self.norm(x))), 2, 2)


class DenseNet(Backbone):
    """Four dense blocks with transitions between them.

    Args:
        depths: number of units in each block.
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, depths: Sequence[int], *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(
            Conv(3, 64, 7, 2, padding=3, name="conv1_conv", **options),
            BatchNorm(64, epsilon=EPSILON, name="conv1_bn", **options),
        )
        blocks, transitions, width = [], [], 64
        for number, depth in enumerate(depths, start=2):
            units = []
            for unit in range(1, depth + 1):
                units.append(DenseUnit(width, f"conv{number}_block{unit}", **options))
                width += GROWTH
            blocks.append(nnx.List(units))
            if number <= len(depths):
                transitions.append(Transition(width, f"pool{number}", **options))
                width //= 2
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.norm = BatchNorm(width, epsilon=EPSILON, name="bn", **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`conv1_relu`, `pool1`, each unit's `convB_blockU_concat`, `pool2`..`pool4`, `relu`."""
        x = self.stem(x)
        stages = {"conv1_relu": x}
        x = zero_padded_max_pool(x, 3, 2, 1)
        stages["pool1"] = x
        for number, units in enumerate(self.blocks, start=2):
            for u, unit in enumerate(units, start=1):
                x = unit(x)
                stages[f"conv{number}_block{u}_concat"] = x
            if number - 2 < len(self.transitions):
                x = self.transitions[number - 2](x)
                stages[f"pool{number}_pool"] = x
        stages["relu"] = nnx.relu(self.norm(x))
        return stages


def _spec(name: str, depths: tuple[int, ...], width: int, parameters: int, md5: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        build=partial(DenseNet, depths),
        input_size=224,
        weights=keras_url(f"densenet/{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        feature_width=width,
        parameters=parameters,
        preprocessing="torch",
        source="imagenet2012",
        licence="BSD-3-Clause",
        citation="Huang et al., Densely Connected Convolutional Networks, arXiv 1608.06993",
        description=f"4 dense blocks of {', '.join(map(str, depths))} units",
        family="densenet",
        layout=WeightsLayout("keras", ("predictions", "fc1000"), md5=md5),
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec("densenet121", (6, 12, 24, 16), 1024, 6_953_856, "30ee3e1110167f948a6b9946edeeb738"),
    _spec("densenet169", (6, 12, 32, 32), 1664, 12_484_480, "b8c4d4c20dd625c148057b9ff1c1176b"),
    _spec("densenet201", (6, 12, 48, 32), 1920, 18_092_928, "c13680b51ded0fb44dff2d8f86ac8bb1"),
)
