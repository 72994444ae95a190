"""Images that stay encoded until they are asked for.

`ImageStore` stands where an array of images could stand: it has `shape`, `dtype` and a length,
`np.asarray` decodes all of it, and indexing with one integer decodes one image. Taking a subset
copies no pixels. What streams is a store; what is held in memory is the array made from one, so
that both see equal pixels.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np

from ncap_jax import errors
from ncap_jax.data import decode

# Decoding happens in threads: Pillow lets go of Python's lock while it decodes and resizes.
WORKERS = min(8, os.cpu_count() or 1)
# Images a thread decodes before it looks for more work: handing work over costs about as much as
# decoding a small image.
_CHUNK = 16
# Bytes; of the buffers that XLA's CPU client takes over as they are.
_ALIGNMENT = 64

T = TypeVar("T")


class Source(Protocol):
    """Encoded images by number. Reads may come from several threads at once."""

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
        """The path, with bytes that are no text escaped."""
        return printable(self.paths[index])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageStore:
    """Encoded images, decoded to one size on demand.

    Attributes:
        source: the encoded images.
        indices: (n,) which images of the source, in which order.
        size: (height, width) all are decoded to.
        channels: 1 (grey) or 3 (RGB).
        threads: that decode, where all images are wanted at once.
    """

    source: Source
    indices: np.ndarray
    size: tuple[int, int]
    channels: int = 3
    threads: int = WORKERS

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) of the array that this stands for."""
        return (len(self), *self.size, self.channels)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that this stands for."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: np.ndarray) -> ImageStore:
        """A store of the images at `indices`; nothing is decoded."""
        return dataclasses.replace(self, indices=self.indices[indices])

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
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        try:
            return self.decode(index)[0]
        except decode.BrokenImageError as error:
            raise errors.DataError(
                f"{self.name(index)}: {error.cause}",
                "It could be read when the run began: has it been changed or removed since",
            ) from None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are still encoded become an array only by decoding")
        pixels = np.empty(self.shape, np.uint8)
        for index, image in enumerate(parallel(self.__getitem__, len(self), self.threads)):
            pixels[index] = image
        return pixels if dtype is None else pixels.astype(dtype)


def is_streamed(images: Any) -> bool:
    """Whether images are decoded on demand instead of held in memory."""
    return isinstance(images, ImageStore)


def take(images: Any, indices: np.ndarray) -> Any:
    """The images at `indices`, as an array or as a store, whichever `images` is."""
    return images.take(indices) if is_streamed(images) else images[indices]


def gather(images: Any, indices: np.ndarray) -> np.ndarray:
    """The images at `indices` as an array (len(indices), h, w, c) uint8, decoded if need be."""
    if not is_streamed(images):
        return images[indices]
    pixels = _aligned((len(indices), *images.shape[1:]))
    for place, index in enumerate(indices):
        pixels[place] = images[int(index)]
    return pixels


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array that begins where XLA wants it to: JAX's CPU device need not copy it."""
    size = int(np.prod(shape))
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].reshape(shape)


def parallel(function: Callable[[int], T], count: int, threads: int = WORKERS) -> Iterator[T]:
    """function(0) ... function(count - 1), in order, computed by threads a few chunks ahead."""
    if threads == 1:
        yield from map(function, range(count))
        return
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    pending: collections.deque[concurrent.futures.Future[list[T]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for chunk in chunks:
            pending.append(pool.submit(lambda chunk: [function(i) for i in chunk], chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def printable(path: str | os.PathLike[str]) -> str:
    """A path as one line of text that can be written as UTF-8, whatever bytes it holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
