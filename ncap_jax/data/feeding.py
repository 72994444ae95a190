"""The feed of a checked data set: resident on the device, or streamed to it."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching, stream
from ncap_jax.data.feed import Chunk, Feed
from ncap_jax.data.images import gather, is_streamed
from ncap_jax.data.threads import WORKERS
from ncap_jax.types import Dataset


def make_feed(dataset: Dataset, *, workers: int = WORKERS) -> Feed:
    """The feed of a data set as `load_dataset` returns it.

    Args:
        dataset: a checked set; whether it is streamed decides the kind of feed.
        workers: number of decoding threads, where it is streamed.
    """
    if is_streamed(dataset.images):
        return _Streamed(dataset, workers)
    return _Resident(dataset)


class _Resident:
    """The whole set on the device, uint8."""

    def __init__(self, dataset: Dataset) -> None:
        self.labels = dataset.labels
        self.num_classes = dataset.num_classes
        self._images = np.asarray(dataset.images)
        self._train = jax.device_put((self._images, dataset.labels))
        self._validation = (
            jax.device_put(np.asarray(dataset.validation_images)),
            jax.device_put(np.asarray(dataset.validation_labels)),
        )

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        indices = batching.epoch_batches(seed, epoch, len(self.labels), batch_size, start_step)
        if len(indices):
            images, labels = self._train
            yield Chunk(images, labels, indices, np.ones(indices.shape, bool))

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        indices, mask = batching.padded_batches(len(self._validation[1]), batch_size)
        yield Chunk(*self._validation, indices, mask)

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        if jax.default_backend() == "cpu":
            # On the device it would compile a program for every number of samples.
            return jax.device_put((self._images[indices], self.labels[indices]))
        # An accelerator has the images already: only the indices are sent, epoch after epoch.
        images, labels = self._train
        return jnp.take(images, indices, axis=0), jnp.take(labels, indices)


class _Streamed:
    """Decoded and sent to the device batch by batch."""

    def __init__(self, dataset: Dataset, workers: int) -> None:
        self.labels = dataset.labels
        self.num_classes = dataset.num_classes
        self._dataset = dataset
        self._workers = workers

    def train(self, seed: int, epoch: int, batch_size: int, start_step: int = 0) -> Iterator[Chunk]:
        indices = batching.epoch_batches(seed, epoch, len(self.labels), batch_size, start_step)
        batches = stream.stream_batches(
            self._dataset.images, self.labels, indices, workers=self._workers
        )
        return map(_single_step, batches)

    def validation(self, batch_size: int) -> Iterator[Chunk]:
        labels = np.asarray(self._dataset.validation_labels)
        images = self._dataset.validation_images
        assert images is not None  # a checked set has a validation part
        order = batching.padded_batches(len(labels), batch_size)
        batches = stream.stream_batches(images, labels, *order, workers=self._workers)
        return map(_single_step, batches)

    def subset(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        images = gather(self._dataset.images, indices)
        return jnp.asarray(images), jnp.asarray(self.labels[indices])


def _single_step(batch: stream.Batch) -> Chunk:
    """A batch as the chunk of one step."""
    indices = np.arange(len(batch.labels), dtype=np.int32)
    return Chunk(batch.images, batch.labels, indices[None], np.asarray(batch.mask)[None])
