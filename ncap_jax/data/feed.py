"""One way to consume a data set, whether it lives on the device or is streamed to it.

A feed hands out *chunks*: some images on the device, and batches as indices into them. A set that
lives on the device is one chunk for the whole epoch, which a jitted step (or a scan over steps)
indexes; a streamed set is a chunk for each step. The samples, their order and the number of steps
are the same. `ncap_jax.data.feeding.make_feed` makes feeds; importing this module loads nothing
that decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax
import numpy as np


class Chunk(NamedTuple):
    """Images on the device and the batches to take from them, in order.

    Attributes:
        images: (m, h, w, c) uint8.
        labels: (m,) int32.
        indices: (steps, batch) int32 into `images` and `labels`, on the host.
        mask: (steps, batch) bool, False where an evaluation batch is padded; on the host.
    """

    images: jax.Array
    labels: jax.Array
    indices: np.ndarray
    mask: np.ndarray


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
