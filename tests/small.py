"""A candidate and a data set small enough for every test that must really train."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax import data
from ncap_jax.types import Dataset, ModelSpec, RankConfig

WIDTHS = (24, 16, 12)


class SmallNet(nnx.Module):
    """One strided convolution with batch norm; features (batch, width)."""

    def __init__(self, width: int = 12, *, rngs: nnx.Rngs, dtype=None):
        self.conv = nnx.Conv(3, width, (4, 4), strides=4, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, dtype=dtype, rngs=rngs)

    def features(self, x):
        return jnp.mean(nnx.relu(self.norm(self.conv(x))), axis=(1, 2))


def small_spec(name: str = "small", width: int = 12) -> ModelSpec:
    # A partial of a class, no closure: it can be sent to worker processes.
    build = functools.partial(SmallNet, width)
    return ModelSpec(name=name, build=build, input_size=8, feature_width=width)


def small_digits(train: int = 96, validation: int = 70) -> Dataset:
    """Real digits at their native 8x8 size, in three channels; a checked data set."""
    whole = data.load_dataset("digits")

    def shrink(images):
        blocks = images.reshape(len(images), 8, 4, 8, 4, 3)
        return np.round(blocks.mean(axis=(2, 4))).astype(np.uint8)

    return data.load_dataset(
        Dataset(
            shrink(whole.images[:train]),
            whole.labels[:train],
            shrink(whole.validation_images[:validation]),
            whole.validation_labels[:validation],
            name="small digits",
        )
    )


def small_config(**changes) -> RankConfig:
    values = {
        "epochs": 2,
        "batch_size": 32,
        "head": "trainable_probe",  # of the heads that train along the one that compiles fastest
        "probe_widths": WIDTHS,
        "weights": "random",
        "trial_rates": (),
    }
    return RankConfig(**{**values, **changes})
