"""SqueezeNet 1.1 (Iandola et al. 2016), as its authors published it for Caffe."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, Conv, concat

# Fire module -> squeezed width, width of each of the two expansions.
FIRES = {
    2: (16, 64),
    3: (16, 64),
    4: (32, 128),
    5: (32, 128),
    6: (48, 192),
    7: (48, 192),
    8: (64, 256),
    9: (64, 256),
}
POOLED_AFTER = (3, 5)


class Fire(nnx.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions side by side, each with ReLU."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, name: str, **options: Any):
        def conv(inputs: int, outputs: int, kernel: int, suffix: str) -> Conv:
            return Conv(inputs, outputs, kernel, bias=True, name=f"{name}/{suffix}", **options)

        self.squeeze = conv(inputs, squeezed, 1, "squeeze1x1")
        self.expand1 = conv(squeezed, expanded, 1, "expand1x1")
        self.expand3 = conv(squeezed, expanded, 3, "expand3x3")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(concat([self.expand1(x), self.expand3(x)]))


class SqueezeNet(Backbone):
    """SqueezeNet 1.1 up to the last fire module.

    Args:
        dtype: compute dtype.
        rngs: random streams.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = Conv(3, 64, 3, 2, padding="VALID", bias=True, name="conv1", **options)
        fires, width = [], 64
        for number, (squeezed, expanded) in FIRES.items():
            fires.append(Fire(width, squeezed, expanded, f"fire{number}", **options))
            width = 2 * expanded
        self.fires = nnx.List(fires)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`pool1`, `fire2` ... `fire9`."""
        x = ceil_max_pool(nnx.relu(self.stem(x)))
        stages = {"pool1": x}
        for number, fire in zip(FIRES, self.fires):
            x = fire(x)
            stages[f"fire{number}"] = x
            if number in POOLED_AFTER:
                x = ceil_max_pool(x)
        return stages


def ceil_max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pooling of stride 2 whose last window may reach over the edge (Caffe's rounding)."""
    over = tuple((0, (n - 3) % 2) for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *over, (0, 0)), constant_values=-jnp.inf)
    return max_pool(x, 3, 2)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="squeezenet",
        build=SqueezeNet,
        input_size=224,
        feature_width=512,
        preprocessing="squeezenet",
        weights="squeezenet_v1.1.safetensors",
        parameters=722_496,
        source="imagenet2012",
        licence="BSD-2-Clause (the authors'; none stated by github.com/nihui/ncnn-assets)",
        citation="Iandola et al., SqueezeNet, arXiv 1602.07360",
        description="8 fire modules (version 1.1)",
        family="squeezenet",
        layout=WeightsLayout("keras", ("conv10",)),
    ),
)
