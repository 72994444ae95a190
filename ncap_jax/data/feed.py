"""One way to consume a data set, whether it lives on the device or is streamed to it.

A feed hands out *chunks*: some images on the device, and batches as indices into them. A set that
lives on the device is one chunk for the whole epoch, which a jitted step (or a scan over steps)
indexes; a streamed set is a chunk for each step. The samples, their order and the number of steps
are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching, stream
from ncap_jax.data.images import WORKERS, gather, is_streamed
from ncap_jax.types import Dataset


class Chunk(NamedTuple):
    """Images on the device and the batches to take from them, in order.

    Attributes:
        images: (m, h, w, c) uint8.
        labels: (m,) int32.
        indices: (steps, batch) int32 into `images` and `labels`.
        mask: (steps, batch) bool, False where an evaluation batch is padded.
    """

    images: jax.Array
    labels: jax.Array
    indices: jax.Array
    mask: jax.Array


class Feed(Protocol):
    """What fine-tuning consumes."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32 labels of the training part."""

    @property
    def num_classes(self) -> int:
        """K."""

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        """Chunks of a training epoch from step `start_step` on (`batching.epoch_batches`)."""

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        """Chunks that hold every validation sample once (`batching.padded_batches`)."""

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Training images and labels at `indices`, on the device."""


def make_feed(dataset: Dataset, *, workers: int = WORKERS) -> Feed:
    """The feed for a checked data set: resident on the device, or streamed.

    Args:
        dataset: as `load_dataset` returns it.
        workers: decoding threads, where it is streamed.
    """
    if is_streamed(dataset.images):
        return _Streamed(dataset, workers)
    return _Resident(dataset)


class _Resident:
    """The whole set on the device, uint8."""

    def __init__(self, dataset: Dataset):
        self.labels = dataset.labels
        self.num_classes = dataset.num_classes
        self._train = _to_device(dataset.images, dataset.labels)
        self._validation = _to_device(dataset.validation_images, dataset.validation_labels)

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        indices = batching.epoch_batches(seed, epoch, len(self.labels), batch_size, start_step)
        if len(indices):
            yield Chunk(*self._train, *_to_device(indices, np.ones(indices.shape, bool)))

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        batches = batching.padded_batches(len(self._validation[1]), batch_size)
        yield Chunk(*self._validation, *_to_device(*batches))

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        images, labels = self._train
        return images[indices], labels[indices]


class _Streamed:
    """Decoded and sent to the device batch by batch."""

    def __init__(self, dataset: Dataset, workers: int):
        self.labels = dataset.labels
        self.num_classes = dataset.num_classes
        self._train = dataset.images, dataset.labels
        self._validation = dataset.validation_images, np.asarray(dataset.validation_labels)
        self._workers = workers

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        batches = stream.train_stream(
            *self._train,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
            start_step=start_step,
            workers=self._workers,
        )
        return map(_single, batches)

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        batches = stream.evaluation_stream(
            *self._validation, batch_size=batch_size, workers=self._workers
        )
        return map(_single, batches)

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        images, labels = self._train
        return _to_device(gather(images, indices), labels[indices])


def _to_device(first: Any, second: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(first), jnp.asarray(second)


def _single(batch: stream.Batch) -> Chunk:
    """A batch as the chunk of one step."""
    indices = jnp.arange(len(batch.labels), dtype=jnp.int32)
    return Chunk(batch.images, batch.labels, indices[None], batch.mask[None])
