"""What a user calls images - paths, folders, patterns, arrays, Pillow's images - one by one.

Every image takes the way of the data stage: decoded, and brought to one size and one number of
channels, by the code that read the training data.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ncap_jax import errors
from ncap_jax.data import decode
from ncap_jax.data.checks import check_images
from ncap_jax.data.encoded import printable
from ncap_jax.data.images import EncodedImages
from ncap_jax.data.listing import images_below
from ncap_jax.data.threads import ordered_map

FORMS = "Give paths, folders, arrays (n, height, width, channels), or images of Pillow's"
# Pillow loads an image when it is first looked at, which two threads must not do at once.
_PILLOW = threading.Lock()


class Form(NamedTuple):
    """What all images are brought to."""

    size: tuple[int, int]
    channels: int


class Picture(NamedTuple):
    """One image.

    Attributes:
        name: what a person finds it by; printable.
        read: its pixels (height, width, channels) uint8 in a form; raises `BrokenImageError`.
    """

    name: str
    read: Callable[[Form], np.ndarray]


def collect(images: Any) -> list[Picture]:
    """All images that a user means, in order; those of a folder sorted by path.

    Nothing is decoded yet. A list or tuple may mix all forms; so may a column of a table.

    Args:
        images: the path of a file or folder, or a pattern of paths such as `new/*.jpg`; an array
            (n, h, w, 1 or 3) or (h, w, 1 or 3) or (h, w), of pixels as `load_dataset` takes them;
            an image of Pillow's; or a list of these.

    Raises:
        DataError: none of these, nothing there, or an array that holds no images.
    """
    pictures = list(_pictures(images, ""))
    if not pictures:
        raise errors.DataError("no images are given", FORMS)
    return pictures


def decoded(pictures: list[Picture], form: Form) -> Iterator[np.ndarray | decode.BrokenImageError]:
    """The pixels of every image in order, or why it has none; read ahead by threads."""

    def attempt(index: int) -> np.ndarray | decode.BrokenImageError:
        try:
            return pictures[index].read(form)
        except decode.BrokenImageError as error:
            return error

    return ordered_map(attempt, len(pictures))


def _pictures(images: Any, number: str) -> Iterator[Picture]:
    """The images in `images`, of which those without a name are called by their number."""
    if isinstance(images, str | os.PathLike):
        yield from (
            Picture(printable(path), partial(read_opened, partial(decode.open_file, path)))
            for path in _paths(images)
        )
    elif isinstance(images, Image.Image):
        yield Picture(f"image {number or 0}", partial(_read_pillow, images))
    elif isinstance(images, EncodedImages):
        for index in range(len(images)):
            yield Picture(f"image {index}", partial(_read_encoded, images, index))
    elif _holds_objects(images):
        yield from _pictures(images.tolist(), number)
    elif isinstance(images, list | tuple):
        for index, each in enumerate(images):
            yield from _pictures(each, f"{number}.{index}" if number else str(index))
    else:
        array = _array(images)
        for index, pixels in enumerate(array):
            name = f"{number}.{index}" if number and len(array) > 1 else number or str(index)
            yield Picture(f"image {name}", partial(_read_pixels, pixels))


def _holds_objects(images: Any) -> bool:
    """Whether an array, or a column of a table, holds texts or other objects, not numbers."""
    return getattr(getattr(images, "dtype", None), "kind", "") in ("U", "O")


def _paths(path: str | os.PathLike[str]) -> list[str]:
    """Paths of the files that a path, or a pattern of paths, names."""
    path = os.path.expanduser(os.fspath(path))
    if os.path.lexists(path) or not glob.has_magic(path):
        return _files(path)
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise errors.DataError(f"no file matches {printable(path)}", FORMS)
    return [file for match in matches for file in _files(match)]


def _files(path: str) -> list[str]:
    """The path of a file, or those of the images below a folder."""
    if not os.path.isdir(path):
        return [path]
    if found := sorted(images_below(path)):
        return found
    raise errors.DataError(f"{printable(path)} holds no images", "Give a folder that holds some")


def _array(images: Any) -> np.ndarray:
    """(n, h, w, c) uint8 of an array of one or several images."""
    if not hasattr(images, "shape"):
        name = type(images).__name__
        raise errors.DataError(f"{name} {images!r:.80} is not an image", FORMS)
    array = np.asarray(images)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        if array.shape[-1] not in (1, 3):
            raise errors.DataError(
                f"an array of shape {array.shape} is not an image",
                "Give (height, width, channels) with 1 (grey) or 3 (red, green, blue) channels, "
                "or (n, height, width, channels)",
            )
        array = array[None]
    if array.shape[:1] == (0,):
        return np.empty((0, 1, 1, 1), np.uint8)
    return check_images(array, "given")[0]


def read_opened(open_it: Callable[[], BinaryIO], form: Form) -> np.ndarray:
    """The pixels of an encoded image.

    Args:
        open_it: opens it; may raise `BrokenImageError`.
        form: of the pixels.

    Raises:
        BrokenImageError: it cannot be opened or decoded, with the reason.
    """
    with open_it() as file:
        decode.verify(file)
        return decode.decode(file, form.size, form.channels)[0]


def _read_pillow(image: Image.Image, form: Form) -> np.ndarray:
    with _PILLOW:
        return decode.from_image(image, form.size, form.channels)


def _read_encoded(images: EncodedImages, index: int, form: Form) -> np.ndarray:
    return _read_pixels(images[index], form)


def _read_pixels(pixels: np.ndarray, form: Form) -> np.ndarray:
    if pixels.shape == (*form.size, form.channels):
        return pixels
    grey = pixels.shape[-1] == 1
    return decode.from_image(Image.fromarray(pixels[..., 0] if grey else pixels), *form)
