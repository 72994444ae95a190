"""A candidate and a data set small enough for every test that must really train."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax import data
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.options import RankConfig
from ncap_jax.types import Dataset, EpochRecord, ModelSpec

WIDTHS = (24, 16, 12)


def cheap_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = None, **_: Any) -> jax.Array:
    """Gaussian weights by NumPy: Flax's default compiles for half a second for every shape."""
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    return jnp.asarray(draw.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), dtype)


class SmallNet(nnx.Module):
    """One strided convolution with batch norm; features (batch, width)."""

    def __init__(
        self, width: int = 12, momentum: float = 0.9, *, rngs: nnx.Rngs, dtype: Any = None
    ):
        shared = {"dtype": dtype, "rngs": rngs}
        self.conv = nnx.Conv(3, width, (4, 4), strides=4, use_bias=False, **shared)
        self.norm = nnx.BatchNorm(width, momentum=momentum, **shared)

    def features(self, x: jax.Array) -> jax.Array:
        return jnp.mean(nnx.relu(self.norm(self.conv(x))), axis=(1, 2))


def small_spec(name: str = "small", width: int = 12) -> ModelSpec:
    # A partial of a class, no closure: it can be sent to worker processes.
    build = functools.partial(SmallNet, width)
    return ModelSpec(name=name, build=build, input_size=8, feature_width=width)


class Deep(nnx.Module):
    """Four weight layers with the head: the fewest that whole networks are defined for."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None):
        options: dict[str, Any] = {"kernel_init": cheap_init, "dtype": dtype, "rngs": rngs}
        self.conv = nnx.Conv(3, 4, (4, 4), strides=4, **options)
        self.norm = nnx.BatchNorm(4, dtype=dtype, rngs=rngs)
        self.two, self.three = nnx.Linear(16, 8, **options), nnx.Linear(8, 8, **options)

    def features(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1)
        return nnx.relu(self.three(nnx.relu(self.two(x))))


def deep_spec(name: str = "deep") -> ModelSpec:
    """The smallest model that has a whole-network beta_eff under head=linear."""
    return ModelSpec(name=name, build=Deep, input_size=8, feature_width=8)


@functools.cache
def _digits() -> Dataset:
    return data.load_dataset("digits")


def small_digits(train: int = 96, validation: int = 70) -> Dataset:
    """Real digits at their native 8x8 size, in three channels; a checked data set."""
    whole = _digits()

    def shrink(images: Any) -> np.ndarray:
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


@functools.cache
def small_feed() -> Feed:
    """The feed of `small_digits`, made once."""
    return make_feed(small_digits())


def small_config(**changes: Any) -> RankConfig:
    values = {
        "epochs": 2,
        "batch_size": 32,
        "head": "trainable_probe",  # of the heads that train along the one that compiles fastest
        "probe_widths": WIDTHS,
        "weights": "random",
        "trial_rates": (),
        "strategy": "full",
    }
    return RankConfig(**{**values, **changes})


def small_tuning(spec: ModelSpec | None = None, **changes: Any) -> FineTuning:
    """A candidate on `small_feed`, of which beta_eff is not measured."""
    config = small_config(**changes)
    feed = small_feed()
    return FineTuning(prepare(spec or small_spec(), feed, config), feed, config)


def timeless(records: Iterable[EpochRecord]) -> list[EpochRecord]:
    """Records without their times, which no two runs share."""
    return [dataclasses.replace(r, seconds=0.0, measure_seconds=0.0) for r in records]
