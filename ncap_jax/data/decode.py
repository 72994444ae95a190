"""From the bytes of one image file to uint8 pixels; files are not trusted.

What a file may cost is bounded before it is decoded: its header must name one of a few formats, a
bounded number of pixels and a bounded number of bytes. Whatever a decoder raises on the rest
becomes `BrokenImageError` with a reason.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ncap_jax import errors
from ncap_jax.options import MIN_IMAGE_SIZE

# Recognised by content, whatever the file's name says. No EPS: that starts Ghostscript. Importing
# the plugins registers them; Pillow's own lazy registration is not safe in threads.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pillow's own threshold for a decompression bomb (a quarter of 1 GiB in bytes of RGB).
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# An uncompressed RGB file at that limit, and a header.
MAX_BYTES = 3 * MAX_PIXELS + 2**20

_ORIENTATION = 0x0112  # EXIF tag
_EXIF = frozenset(("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"))  # hold it
_TRANSPOSED = (5, 6, 7, 8)  # its values that swap width and height
# Values 0..65535 behind Pillow's wide grey modes.
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class BrokenImageError(errors.DataError):
    """An image that cannot be used; `cause` is the reason, without the file's name."""


def open_file(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open an image file, refusing what might block or flood the reader.

    Raises:
        BrokenImageError: missing, not a regular file (a pipe would block), empty or too large.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImageError("not a regular file")
        if status.st_size == 0:
            raise BrokenImageError("empty file")
        if status.st_size > MAX_BYTES:
            raise BrokenImageError(f"{status.st_size} bytes, more than {MAX_BYTES}")
        return open(path, "rb")
    except OSError as error:
        raise BrokenImageError(error.strerror or type(error).__name__) from None
    except ValueError as error:  # a path with a NUL in it
        raise BrokenImageError(str(error)) from None


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Height and width from the header, as the image is to be seen (EXIF rotation applied).

    Raises:
        BrokenImageError: not an image of a known format, or too many or too few pixels.
    """
    try:
        with _open(file) as image:
            width, height = image.size
            turned = image.format in ("JPEG", "MPO") and _orientation(image) in _TRANSPOSED
            return (width, height) if turned else (height, width)
    except BrokenImageError:
        raise
    except Exception as error:
        raise _broken(error) from None


def decode(
    file: BinaryIO, size: tuple[int, int] | None = None, channels: int = 3
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image to uint8, in the orientation, colour model and size asked for.

    The first frame of an animation is taken. EXIF rotation is applied. Transparent pixels are
    laid over white. 16-bit grey is scaled to 8 bits; CMYK, palettes and the like become RGB.

    Args:
        file: the encoded image.
        size: (height, width) to resize to, ignoring the aspect ratio (bicubic, antialiased when
            shrinking); None keeps the image's own. JPEGs at least four times that large are
            decoded at a half, a quarter or an eighth of their size first, which the format offers.
        channels: 3 for RGB, 1 for grey.

    Returns:
        pixels: (height, width, channels) uint8.
        notes: what had to be done beyond decoding and resizing, in words.

    Raises:
        BrokenImageError: the image cannot be decoded, with the reason.
    """
    try:
        with _open(file) as image:
            return _decode(image, size, channels)
    except BrokenImageError:
        raise
    # Damaged files make decoders raise nearly anything: struct.error, SyntaxError, EOFError, ...
    except Exception as error:
        raise _broken(error) from None


def from_image(
    image: Image.Image, size: tuple[int, int] | None = None, channels: int = 3
) -> np.ndarray:
    """An image of Pillow's as `decode` returns one from a file.

    Args:
        image: stays as it is.
        size: see `decode`.
        channels: see `decode`.

    Returns:
        (height, width, channels) uint8.

    Raises:
        BrokenImageError: its pixels cannot be read.
    """
    try:
        return _decode(image.copy(), size, channels)[0]
    except BrokenImageError:
        raise
    except Exception as error:
        raise _broken(error) from None


def verify(file: BinaryIO) -> None:
    """Check a file against its own checksums, which Pillow does not do when it decodes.

    Of the known formats only PNG has any. A damaged PNG would be decoded up to the damage, and be
    black after it. The file is read from its beginning and rewound to it.

    Raises:
        BrokenImageError: a checksum is wrong, or not an image of a known format.
    """
    try:
        image = _open(file)
        if image.format == "PNG":
            image.verify()
    except BrokenImageError:
        raise
    except Exception as error:
        raise _broken(error) from None
    finally:
        file.seek(0)


@contextlib.contextmanager
def pillow_silenced() -> Iterator[None]:
    """Silence Pillow's warnings of damaged metadata and of sizes that are judged here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _open(file: BinaryIO) -> Image.Image:
    """Read the header and check what it promises; no pixel is decoded yet."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenImageError("not a JPEG, PNG, WebP, BMP, GIF or TIFF image") from None
    except Image.DecompressionBombError:
        raise BrokenImageError(f"more than {MAX_PIXELS} pixels") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"{width}×{height} pixels, more than {MAX_PIXELS} in all")
    if min(width, height) < MIN_IMAGE_SIZE:
        raise BrokenImageError(f"{width}×{height} pixels, fewer than {MIN_IMAGE_SIZE} on a side")
    return image


def _decode(
    image: Image.Image, size: tuple[int, int] | None, channels: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    notes = []
    if image.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(image, "is_animated", False):
        notes.append("first frame of several")
    if size is not None and image.format == "JPEG":
        # Never below twice the target, so that the resize after it still decides.
        image.draft(None, (2 * max(size), 2 * max(size)))
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
        notes.append("EXIF rotation applied")
    mode = "RGB" if channels == 3 else "L"
    if image.mode != mode:
        image, note = _convert(image, mode)
        notes.append(note)
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], channels), tuple(notes)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it is not readable."""
    if image.format == "JPEG" and _EXIF.isdisjoint(image.info):  # the usual case, and cheap
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unusable
        return 1
    return value if value in range(1, 9) else 1


def _convert(image: Image.Image, mode: str) -> tuple[Image.Image, str]:
    """The image in `mode` (RGB or L), and a note on what that took."""
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image).convert(mode), "16 bits to 8"
    if image.mode == "F":
        raise BrokenImageError("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert(mode), "transparency over white"
    names = {"L": "grey", "1": "black and white", "P": "palette"}
    note = f"{names.get(image.mode, image.mode)} to {'RGB' if mode == 'RGB' else 'grey'}"
    return image.convert(mode), note


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    """Grey 0..65535 to 0..255. (Pillow's own conversion clips at 255.)"""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BrokenImageError("more than 16 bits a pixel")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _broken(error: Exception) -> BrokenImageError:
    text = str(error) or "no reason given"
    return BrokenImageError(f"cannot be decoded: {text} ({type(error).__name__})")
