"""The images of a data set as every consumer sees them: an array, or images that are still encoded.

`EncodedImages` stand where an array of pixels could stand: they have its `shape`, `dtype` and
length, and indexing with one integer decodes one image. Nothing here decodes; that is
`ncap_jax.data.encoded`, which importing this module does not load.
"""

from __future__ import annotations

import abc
import hashlib
import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

# Bytes. XLA's CPU client uses buffers that are aligned like this without copying them.
_ALIGNMENT = 64


class EncodedImages(abc.ABC):
    """Images that stay encoded until they are asked for; `np.asarray` decodes them all."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) of the array that this stands for."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array that this stands for."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` as (height, width, channels) uint8; IndexError where there is none."""

    @abc.abstractmethod
    def take(self, indices: np.ndarray) -> EncodedImages:
        """The images at `indices`, still encoded."""

    def checksums(self) -> np.ndarray:
        """(n,) uint32: the `checksum` of every image, in order; decodes them all."""
        return np.array([checksum(self[index]) for index in range(len(self))], np.uint32)


Images = np.ndarray | EncodedImages


def checksum(pixels: np.ndarray) -> int:
    """CRC-32 of an image's pixels: of two different images, equal once in four billion."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def checksums(images: Images) -> np.ndarray:
    """(n,) uint32: the `checksum` of every image; of encoded images those that are known."""
    if isinstance(images, EncodedImages):
        return images.checksums()
    return np.array([checksum(image) for image in images], np.uint32)


def digest(parts: Iterable[Images]) -> str:
    """SHA-256 in hex over the pixels of arrays; of encoded images over every image's checksum."""
    found = hashlib.sha256()
    for part in parts:
        content = part.checksums() if isinstance(part, EncodedImages) else part
        found.update(np.ascontiguousarray(content).data)
    return found.hexdigest()


def is_streamed(images: Any) -> bool:
    """Whether images are decoded on demand instead of being held in memory."""
    return isinstance(images, EncodedImages)


def take(images: Images, indices: np.ndarray) -> Images:
    """The images at `indices`, as an array or still encoded, whichever `images` is."""
    return images.take(indices) if isinstance(images, EncodedImages) else images[indices]


def gather(images: Images, indices: np.ndarray) -> np.ndarray:
    """The images at `indices` as an array (len(indices), h, w, c) uint8, decoded if necessary."""
    if not isinstance(images, EncodedImages):
        return images[indices]
    pixels = _aligned((len(indices), *images.shape[1:]))
    for place, index in enumerate(indices):
        pixels[place] = images[int(index)]
    return pixels


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array whose alignment spares JAX's CPU device a copy."""
    size = math.prod(shape)
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].reshape(shape)
