"""Data parallelism for one model: each batch is divided over the devices of a mesh.

    --mesh=data:8

Parameters, optimizer state and images are replicated; the batch is divided. The training step is
written for the whole batch and jitted as such; XLA divides it and inserts the sums over devices.
So batch statistics, losses and gradients are those of the whole batch, whatever the number of
devices: the same numbers up to the order of summation. With several processes
(`ncap_jax.distributed`) the mesh spans all their devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ncap_jax import distributed, errors
from ncap_jax.data.feed import Chunk, Feed
from ncap_jax.ops.dtypes import is_key
from ncap_jax.options import RankConfig

AXIS = "data"


def num_devices(mesh: str | None) -> int:
    """How many devices the option `mesh` divides a batch over; 1 without one.

    Raises:
        ConfigError: the mesh is not written like `data:8`.
    """
    if mesh is None:
        return 1
    match = re.fullmatch(rf"{AXIS}:([1-9][0-9]*)", str(mesh))
    if match is None:
        raise errors.ConfigError(f"mesh={mesh!r}", f"Write the number of devices like {AXIS}:8")
    return int(match[1])


def check_mesh(config: RankConfig, samples: int | None = None) -> None:
    """Refuse a mesh that cannot work, before any work is done.

    Args:
        config: of the run.
        samples: number of training samples; None: not known yet.

    Raises:
        ConfigError: too few devices, a batch that cannot be divided evenly, or another executor.
    """
    count = num_devices(config.mesh)
    if config.mesh is None:
        return
    if config.executor != "local":
        raise errors.ConfigError(
            f"mesh={config.mesh!r} with executor={config.executor!r}: each worker has one device",
            "Use executor='local', which has all devices",
        )
    available = len(jax.devices())
    if count > available or (distributed.is_distributed() and count != available):
        raise errors.ConfigError(
            f"mesh={config.mesh!r}, but there are {available} devices",
            f"Use mesh='{AXIS}:{available}'",
        )
    batch = config.batch_size if samples is None else min(config.batch_size, samples)
    if batch % count:
        raise errors.ConfigError(
            f"a batch of {batch} cannot be divided over {count} devices",
            f"Use a batch_size that is a multiple of {count}, such as "
            f"{max(1, batch // count) * count}",
        )


def make_mesh(mesh: str | None) -> Mesh | None:
    """The mesh of a checked option; None: one device, wherever JAX places arrays."""
    if mesh is None:
        return None
    devices = np.array(jax.devices()[: num_devices(mesh)])
    return Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def divide(mesh: Mesh | None, batch: jax.Array) -> jax.Array:
    """An array with its first axis divided over the mesh; for use under `jit`."""
    if mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def keep_whole(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays, random keys too, replicated on every device; for results under `jit`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays, random keys too, replicated on every device of the mesh."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _on_own_devices(leaf, sharding), tree)


def _on_own_devices(leaf: Any, sharding: NamedSharding) -> jax.Array:
    # Each process fills its own devices: device_put would first compare all processes' values.
    if is_key(leaf):
        data = _on_own_devices(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def on_mesh(feed: Feed, mesh: str | None) -> Feed:
    """The feed with its chunks replicated on every device of the option's mesh."""
    made = make_mesh(mesh)
    return feed if made is None else _MeshFeed(feed, made)


class _MeshFeed:
    """A feed whose arrays are replicated over a mesh."""

    def __init__(self, feed: Feed, mesh: Mesh):
        self.labels, self.num_classes = feed.labels, feed.num_classes
        self._feed, self._mesh = feed, mesh
        # All chunks of a resident set have the same images, which are sent only once.
        self._sent: dict[str, tuple[jax.Array, tuple[jax.Array, jax.Array]]] = {}

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        """See `Feed.train`."""
        for chunk in self._feed.train(seed, epoch, batch_size, start_step):
            yield self._place("train", chunk)

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        """See `Feed.validation`."""
        for chunk in self._feed.validation(batch_size):
            yield self._place("validation", chunk)

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """See `Feed.subset`."""
        return replicate(self._mesh, self._feed.subset(indices))

    def _place(self, part: str, chunk: Chunk) -> Chunk:
        source, placed = self._sent.get(part, (None, None))
        if placed is None or source is not chunk.images:
            placed = replicate(self._mesh, (chunk.images, chunk.labels))
            self._sent[part] = (chunk.images, placed)
        return chunk._replace(images=placed[0], labels=placed[1])
