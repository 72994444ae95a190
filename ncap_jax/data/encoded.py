"""Encoded images and how they become pixels, one at a time or all at once.

What a data set streams is an `ImageStore`; what it holds in memory is the array made from one, so
that both see equal pixels. Taking a subset copies no pixels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from ncap_jax import errors
from ncap_jax.data import decode
from ncap_jax.data.images import EncodedImages, checksum
from ncap_jax.data.threads import WORKERS, ordered_map


class Source(Protocol):
    """Encoded images by number. Several threads may read at once."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> BinaryIO:
        """The encoded image, for the caller to close; may raise `BrokenImageError`."""

    def name(self, index: int) -> str:
        """What a person finds the image by; printable."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files by path."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> BinaryIO:
        """The file, opened for reading, for the caller to close."""
        return decode.open_file(self.paths[index])

    def name(self, index: int) -> str:
        """The path, with bytes that are not text escaped."""
        return printable(self.paths[index])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageStore(EncodedImages):
    """Encoded images, decoded to one size on demand.

    Attributes:
        source: the encoded images.
        indices: (n,) which images of the source, in which order.
        size: (height, width) that all are decoded to.
        channels: 1 (grey) or 3 (RGB).
        threads: number of threads that decode where all images are wanted at once.
        known: (n,) uint32, the checksum of each image when it was first decoded, which it must
            still have; None: it is not checked.
    """

    source: Source
    indices: np.ndarray
    size: tuple[int, int]
    channels: int = 3
    threads: int = WORKERS
    known: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) of the array that this stands for."""
        return (len(self.indices), *self.size, self.channels)

    def take(self, indices: np.ndarray) -> ImageStore:
        """A store of the images at `indices`; nothing is decoded."""
        known = None if self.known is None else self.known[indices]
        return dataclasses.replace(self, indices=self.indices[indices], known=known)

    def checksums(self) -> np.ndarray:
        """(n,) uint32: what every image must have, in order; decodes only what is not known."""
        return super().checksums() if self.known is None else self.known

    def name(self, index: int) -> str:
        """What a person finds image `index` by."""
        return self.source.name(int(self.indices[index]))

    def decode(self, index: int, *, verify: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
        """Image `index` as (height, width, channels) uint8, and notes on its conversion.

        Args:
            index: in 0..n-1.
            verify: check the file's own checksums first.

        Raises:
            BrokenImageError: it cannot be decoded; the cause names the reason only.
        """
        with self.source.open(int(self.indices[index])) as file:
            if verify:
                decode.verify(file)
            return decode.decode(file, self.size, self.channels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` as (height, width, channels) uint8.

        Raises:
            DataError: it can no longer be decoded.
            ChangedDataError: it is not what it was when it was first decoded.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        try:
            pixels = self.decode(index)[0]
        except decode.BrokenImageError as error:
            raise errors.DataError(
                f"{self.name(index)}: {error.cause}",
                "The file was readable when the run began. Restore it, or start the run again",
            ) from None
        if self.known is not None and checksum(pixels) != self.known[index]:
            raise errors.ChangedDataError(
                f"{self.name(index)} has changed since the run began",
                "Restore it and repeat the run, which resumes in its folder, or start another run",
            )
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("encoded images become an array only by decoding, which copies")
        pixels = np.empty(self.shape, np.uint8)
        for index, image in enumerate(ordered_map(self.__getitem__, len(self), self.threads)):
            pixels[index] = image
        return pixels if dtype is None else pixels.astype(dtype)


def printable(path: str | os.PathLike[str]) -> str:
    """A path as one line of text that can be written as UTF-8, whatever bytes it holds."""
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair: no file has such a name
        text = os.fspath(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
