"""Batches of images that do not fit into memory: decoded by threads, prefetched to the device.

The order comes in from `ncap_jax.data.batching`, so that a stream and an array in memory give
identical batches, and a stream resumes at any step without other state. grain's worker threads
decode (Pillow releases Python's lock). Worker processes are not used: grain's need parsed
command-line flags, which a library cannot require.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from ncap_jax import errors
from ncap_jax.data.images import Images, gather
from ncap_jax.data.threads import WORKERS

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

    images: Images
    labels: np.ndarray
    indices: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = self.indices[step]
        return gather(self.images, chosen), self.labels[chosen], self.mask[step]


def stream_batches(
    images: Images,
    labels: np.ndarray,
    indices: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    workers: int = WORKERS,
) -> Iterator[Batch]:
    """Batches in a given order, on the device before they are asked for.

    Args:
        images: (n, h, w, c) uint8, an array or still encoded.
        labels: (n,) int32.
        indices: (steps, batch) which samples make up which batch (`batching.epoch_batches`,
            `batching.padded_batches`).
        mask: (steps, batch) bool, False where a batch is padded; None: nowhere.
        workers: number of decoding threads.

    Yields:
        One batch a step.

    Raises:
        DataError: an image can no longer be decoded.
        ConfigError: `workers` is less than 1.
    """
    if workers < 1:
        raise errors.ConfigError(f"workers={workers}", "Use at least 1 decoding thread")
    if mask is None:
        mask = np.ones(indices.shape, bool)
    return _to_device(_read(_Steps(images, labels, indices, mask), workers))


def _read(steps: _Steps, workers: int) -> Iterable[tuple[np.ndarray, ...]]:
    import grain

    reading = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    return grain.MapDataset.source(steps).to_iter_dataset(reading)


def _to_device(batches: Iterable[tuple[np.ndarray, ...]]) -> Iterator[Batch]:
    """Start the transfer of the next batches before the current one is handed out."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(Batch(*jax.device_put(batch)))
        if len(waiting) > _ON_DEVICE:
            yield waiting.popleft()
    yield from waiting
