"""Data parallelism for one model: each batch is divided over the devices of a mesh.

    --mesh=data:8

Parameters, optimizer state and images are replicated, the batch is divided. The training step is
written for the whole batch and jitted as such; XLA divides it and puts in the sums over devices.
So batch statistics are those of the whole batch, whatever the number of devices, and so are losses
and gradients: the same numbers up to the order of summation.

With several processes (`jax.distributed`) the mesh spans all their devices. Every process runs the
same program on the same data; the first alone reads and writes the run's folder, and tells the
others what it found there or what went wrong (`first_does`, `broadcast`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ncap_jax import errors
from ncap_jax.data.feed import Chunk, Feed
from ncap_jax.types import RankConfig

T = TypeVar("T")
AXIS = "data"
# A broadcast is a program of its own for every length: messages have few lengths, in bytes, and
# long arrays go in pieces, which also bounds what they take on the devices.
MESSAGE = 1 << 10
PIECE = 16 << 20
# Options that several processes could not carry out alike, with the values that they must have.
PLAIN = {
    "strategy": "full",
    "time_budget": None,
    "model_time_budget": None,
    "epochs_budget": None,
}


def devices_of(config: RankConfig) -> int:
    """How many devices the configuration divides a batch over; 1 without a mesh.

    Raises:
        ConfigError: the mesh is not written like `data:8`.
    """
    if config.mesh is None:
        return 1
    match = re.fullmatch(rf"{AXIS}:([1-9][0-9]*)", str(config.mesh))
    if match is None:
        raise errors.ConfigError(
            f"mesh={config.mesh!r}", f"Write the number of devices like {AXIS}:8"
        )
    return int(match[1])


def check(config: RankConfig, samples: int | None = None) -> None:
    """Refuse a mesh that cannot be, before any work is done.

    Args:
        config: of the run.
        samples: of the training part; None: not known yet.

    Raises:
        ConfigError: too few devices, a batch that does not divide, another executor.
    """
    count = devices_of(config)
    if several():
        _check_processes(config)
    if config.mesh is None:
        return
    if config.executor != "local":
        raise errors.ConfigError(
            f"mesh={config.mesh!r} with executor={config.executor!r}: workers have a device each",
            "Use executor='local', which has them all",
        )
    there = len(jax.devices())
    if count > there or (several() and count != there):
        raise errors.ConfigError(
            f"mesh={config.mesh!r}, but there are {there} devices", f"Use mesh='{AXIS}:{there}'"
        )
    batch = config.batch_size if samples is None else min(config.batch_size, samples)
    if batch % count:
        raise errors.ConfigError(
            f"a batch of {batch} cannot be divided over {count} devices",
            f"Use a batch_size that is a multiple of {count}, such as "
            f"{max(1, batch // count) * count}",
        )


def _check_processes(config: RankConfig) -> None:
    if config.mesh is None:
        raise errors.ConfigError(
            "several processes, but no mesh", f"Use mesh='{AXIS}:{len(jax.devices())}'"
        )
    for name, plain in PLAIN.items():
        if getattr(config, name) != plain:
            raise errors.ConfigError(
                f"{name}={getattr(config, name)!r} with several processes, which would have to "
                "agree when to stop",
                "Leave it out, or run in one process",
            )


def join() -> None:
    """Become one of the processes of a run, before anything else is done with JAX.

    Slurm, Open MPI, Kubernetes and Cloud TPU are found by `jax.distributed.initialize`; elsewhere
    `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say it.

    Raises:
        ConfigError: neither does, or the others do not answer.
    """
    try:
        number, which = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        jax.distributed.initialize(num_processes=number, process_id=which)
    except (ValueError, RuntimeError) as error:
        raise errors.ConfigError(
            f"this process cannot join the others: {error}",
            "Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each",
        ) from error


def several() -> bool:
    """Whether this is one of several processes that run the same program."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that reads and writes."""
    return not several() or jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's value (of JSON's types), in every process."""
    if not several():
        return value
    from jax.experimental import multihost_utils

    text = json.dumps(value if first() else None).encode()
    text = text.ljust(-(-len(text) // MESSAGE) * MESSAGE)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # The others' content does not count, its size does.
    return json.loads(broadcast(np.resize(np.frombuffer(text, np.uint8), size)).tobytes())


def broadcast(data: np.ndarray) -> np.ndarray:
    """The first process's bytes, in every process; (n,) uint8.

    Args:
        data: (n,) uint8; in the other processes the length counts, not the content.
    """
    if not several():
        return data
    from jax.experimental import multihost_utils

    pieces = [
        np.asarray(multihost_utils.broadcast_one_to_all(data[start : start + PIECE]), np.uint8)
        for start in range(0, data.size, PIECE)
    ]
    return np.concatenate([data[:0], *pieces])


def first_does(action: Callable[[], T]) -> T:
    """What the first process alone does: all wait for it, and its outcome is everyone's.

    Whatever an action raises there must be raised everywhere: a process that went on without the
    others would wait for them for ever.

    Args:
        action: called in the first process; gives a value of JSON's types.

    Raises:
        NcapError: of the same kind and with the same words as the action's.
        RuntimeError: for any other exception of the action, if there are several processes.
    """
    if not several():
        return action()
    value, cause = None, None
    if first():
        try:
            value = action()
        except Exception as error:
            cause = error
    told = agree([value, None if cause is None else _in_words(cause)])
    if told[1] is not None:
        raise _from_words(*told[1]) from cause
    return told[0]


def all_do(action: Callable[[], T]) -> T:
    """What every process does for itself, such as reading weights: it succeeds in all or in none.

    Raises:
        NcapError, RuntimeError: of the first process that failed, in every process; see
            `first_does`. Alone, whatever the action raises.
    """
    if not several():
        return action()
    value, cause = None, None
    try:
        value = action()
    except Exception as error:
        cause = error
    failures = [said for said in gather(None if cause is None else _in_words(cause)) if said]
    if failures:
        raise _from_words(*failures[0]) from cause
    assert value is not None, "actions that give nothing need no agreement"
    return value


def gather(value: Any) -> list[Any]:
    """Every process's value (of JSON's types), in the order of the processes, in each of them."""
    if not several():
        return [value]
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    longest = -(-int(np.max(sizes)) // MESSAGE) * MESSAGE
    padded = np.frombuffer(text.ljust(longest), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [json.loads(row.tobytes()) for row in rows]


def _in_words(error: Exception) -> list[str]:
    """Kind, cause and remedy of an error; the kind is empty unless it is one of ours."""
    if isinstance(error, errors.NcapError):
        return [type(error).__name__, error.cause, error.remedy]
    return ["", f"{type(error).__name__}: {error}", ""]


def _from_words(kind: str, cause: str, remedy: str) -> Exception:
    return getattr(errors, kind)(cause, remedy) if kind else RuntimeError(cause)


def make_mesh(config: RankConfig) -> Mesh | None:
    """The mesh of a checked configuration; None: one device, wherever JAX puts things."""
    if config.mesh is None:
        return None
    devices = np.array(jax.devices()[: devices_of(config)])
    return Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def divider(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array]:
    """A function, for use under `jit`, that divides an array's first axis over the mesh."""
    if mesh is None:
        return lambda array: array
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return lambda array: jax.lax.with_sharding_constraint(array, sharding)


def replicated(mesh: Mesh | None) -> dict[str, Any]:
    """Arguments for `jit` that keep its results whole on every device."""
    return {} if mesh is None else {"out_shardings": NamedSharding(mesh, PartitionSpec())}


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """The arrays, random keys too, whole on every device of the mesh."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _everywhere(leaf, sharding), tree)


def _everywhere(leaf: Any, sharding: NamedSharding) -> jax.Array:
    # Each process gives its own devices their copy: device_put would compare all of them first.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _everywhere(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def on_mesh(feed: Feed, config: RankConfig) -> Feed:
    """The feed with its chunks whole on every device of the configuration's mesh."""
    mesh = make_mesh(config)
    return feed if mesh is None else _OnMesh(feed, mesh)


class _OnMesh:
    def __init__(self, feed: Feed, mesh: Mesh):
        self.labels, self.num_classes = feed.labels, feed.num_classes
        self._feed, self._mesh = feed, mesh
        # Of a set that lives on the device, every chunk has the same images: sent only once.
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
        source, there = self._sent.get(part, (None, None))
        if there is None or source is not chunk.images:
            there = replicate(self._mesh, (chunk.images, chunk.labels))
            self._sent[part] = (chunk.images, there)
        return Chunk(*there, *replicate(self._mesh, (chunk.indices, chunk.mask)))
