"""Batches of images that do not fit into memory: decoded by threads, prefetched to the device.

The order is that of `batching`, so that a stream and an array in memory give identical batches.
It is a pure function of (seed, epoch): a position is (epoch, step), and resuming there needs no
other state. grain's worker threads do the decoding (Pillow lets go of Python's lock). Worker
processes are not used: grain's need parsed command-line flags, which a library has no say in.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ncap_jax import errors
from ncap_jax.data import batching
from ncap_jax.data.images import WORKERS, gather

# Batches on their way to the device while the step before them runs.
_ON_DEVICE = 2


class Batch(NamedTuple):
    """One batch on the device.

    Attributes:
        images: (batch, h, w, c) uint8.
        labels: (batch,) int32.
        mask: (batch,) bool, False where an evaluation batch is padded; all True in training.
    """

    images: jax.Array
    labels: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
    """What grain reads from: step number -> the batch in host memory."""

    images: Any
    labels: np.ndarray
    indices: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = self.indices[step]
        return gather(self.images, chosen), self.labels[chosen], self.mask[step]


def train_stream(
    images: Any,
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    start_step: int = 0,
    workers: int = WORKERS,
) -> Iterator[Batch]:
    """The batches of one training epoch, in the order of `batching.epoch_batches`.

    Args:
        images: (n, h, w, c) uint8, an array or an `ImageStore`.
        labels: (n,) int32.
        seed: of the order.
        epoch: number of the epoch.
        batch_size: samples a step.
        start_step: the first step wanted; 0 is the epoch's beginning. To resume a run, pass
            the number of steps done.
        workers: decoding threads, 1 or more.

    Yields:
        steps - start_step batches of min(batch_size, n) samples.

    Raises:
        DataError: an image can no longer be decoded.
        ConfigError: a size is less than 1, or `start_step` is not in the epoch.
    """
    indices = batching.epoch_batches(seed, epoch, len(labels), batch_size, start_step)
    return _stream(_Steps(images, labels, indices, np.ones(indices.shape, bool)), workers)


def evaluation_stream(
    images: Any, labels: np.ndarray, *, batch_size: int, workers: int = WORKERS
) -> Iterator[Batch]:
    """Every sample once, in order, the last batch padded and masked (`batching.padded_batches`).

    Args:
        images: (n, h, w, c) uint8, an array or an `ImageStore`.
        labels: (n,) int32.
        batch_size: samples a batch.
        workers: decoding threads, 1 or more.

    Raises:
        DataError: an image can no longer be decoded.
        ConfigError: a size is less than 1.
    """
    return _stream(
        _Steps(images, labels, *batching.padded_batches(len(labels), batch_size)), workers
    )


def _stream(steps: _Steps, workers: int) -> Iterator[Batch]:
    if workers < 1:
        raise errors.ConfigError(f"{workers} decoding threads", "Use at least 1")
    import grain

    reading = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    batches = grain.MapDataset.source(steps).to_iter_dataset(reading)
    return _to_device(batches)


def _to_device(batches: Iterable[tuple[np.ndarray, ...]]) -> Iterator[Batch]:
    """Start the transfer of the next batches before the current one is handed out."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(Batch(*jax.device_put(batch)))
        if len(waiting) > _ON_DEVICE:
            yield waiting.popleft()
    yield from waiting
