"""AlexNet in the one-tower form of Krizhevsky (2014), as in torchvision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.pooling import max_pool
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, Conv, Dense, symmetric_uniform

# Index in torchvision's `features`: output channels, kernel, stride, padding, pooled after.
CONVS = {
    0: (64, 11, 4, 2, True),
    3: (192, 5, 1, 2, True),
    6: (384, 3, 1, 1, False),
    8: (256, 3, 1, 1, False),
    10: (256, 3, 1, 1, True),
}
GRID = 6
WIDTH = 4096


@dataclass(frozen=True)
class TorchUniform:
    """PyTorch's default for kernels and biases: U(-a, a), a = 1 / sqrt(fan_in)."""

    fan_in: int

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        return symmetric_uniform(key, shape, 1 / math.sqrt(self.fan_in), dtype)


class AlexNet(Backbone):
    """Five convolutions and the first two of the three fully connected layers.

    The features are the 4,096 inputs of the classifier's last layer, the one that is replaced
    in transfer learning. Images of 63 pixels and more are pooled to a 6x6 grid.

    Args:
        dropout: rate in front of both fully connected layers.
        dtype: compute dtype.
        rngs: random streams; `dropout` is used in training.
    """

    def __init__(self, dropout: float = 0.5, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        convs, inputs = [], 3
        for index, (width, kernel, stride, padding, _) in CONVS.items():
            draw = TorchUniform(inputs * kernel * kernel)
            convs.append(
                Conv(
                    inputs,
                    width,
                    kernel,
                    stride,
                    padding=padding,
                    bias=True,
                    kernel_init=draw,
                    bias_init=draw,
                    name=f"features.{index}",
                    **options,
                )
            )
            inputs = width
        self.convs = nnx.List(convs)
        dense = []
        for index, width in ((1, inputs * GRID * GRID), (4, WIDTH)):
            draw = TorchUniform(width)
            name = f"classifier.{index}"
            dense.append(
                Dense(width, WIDTH, name=name, kernel_init=draw, bias_init=draw, **options)
            )
        self.dense = nnx.List(dense)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """`features.2`, `features.5`, `features.7`, `features.9`, `features.12` (NHWC)."""
        stages = {}
        for conv, (index, (*_, pooled)) in zip(self.convs, CONVS.items()):
            x = nnx.relu(conv(x))
            if pooled:
                x = max_pool(x, 3, 2)
            stages[f"features.{index + 1 + pooled}"] = x
        return stages

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, already preprocessed -> (batch, 4096), float32 up."""
        *_, x = self.stages(x).values()
        x = adaptive_average_pool(x, GRID)
        # torchvision flattens channels first; its first dense kernel expects that order.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        for dense in self.dense:
            x = nnx.relu(dense(self.dropout(x)))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def adaptive_average_pool(x: jax.Array, grid: int) -> jax.Array:
    """Mean over a grid of bins, (batch, h, w, c) -> (batch, grid, grid, c), PyTorch's bins.

    Bin i covers the pixels floor(i n / grid) .. ceil((i + 1) n / grid) - 1 of n.
    """
    if x.shape[1:3] == (grid, grid):
        return x
    rows, columns = (jnp.asarray(_bins(n, grid), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows, columns, precision="highest")


def _bins(n: int, grid: int) -> np.ndarray:
    weights = np.zeros((grid, n))
    for i in range(grid):
        start, stop = i * n // grid, -(-(i + 1) * n // grid)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="alexnet",
        build=AlexNet,
        input_size=224,
        feature_width=WIDTH,
        preprocessing="torch",
        weights="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        parameters=57_003_840,
        source="imagenet2012",
        licence="BSD-3-Clause",
        citation="Krizhevsky, One weird trick for parallelizing CNNs, arXiv 1404.5997",
        description="5 convolutions and 2 dense layers (torchvision's, not Keras's)",
        family="alexnet",
        layout=WeightsLayout("torch", ("classifier.6",), sha256_prefix="7be5be79"),
    ),
)
