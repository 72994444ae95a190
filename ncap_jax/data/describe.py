"""What a person should know about a data set before trusting a ranking on it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ncap_jax import errors
from ncap_jax.data.held_out import HeldOut
from ncap_jax.data.images import Images, checksums, gather, is_streamed
from ncap_jax.data.split import stratified_subset
from ncap_jax.types import Dataset

_COLUMNS = 6
_TILE = 96  # pixels a side at least
_CAPTION = 14  # pixels of text under each tile
SHOWN = 5  # images that a message names


def statistics(dataset: Dataset) -> dict[str, Any]:
    """Sizes, class balance and leaks of a checked data set; all values are JSON.

    Args:
        dataset: as `load_dataset` returns it.

    Returns:
        name; num_train, num_validation, num_classes; image_shape [h, w, c];
        classes: per class {name, train, validation} counts;
        imbalance: samples of the largest class over those of the smallest, in training;
        majority_accuracy: of always answering the largest training class, on validation;
        duplicates: validation images that are also in training, pixel by pixel, or None for
        streamed sets, which are not decoded for this;
        memory_bytes: of all decoded images.
    """
    names = dataset.class_names or ()
    validation_labels = np.asarray(dataset.validation_labels)
    train = np.bincount(dataset.labels, minlength=len(names))
    validation = np.bincount(validation_labels, minlength=len(names))
    images: tuple[Any, Any] = dataset.images, dataset.validation_images
    return {
        "name": dataset.name,
        "num_train": len(dataset.labels),
        "num_validation": len(validation_labels),
        "num_classes": dataset.num_classes,
        "image_shape": list(dataset.images.shape[1:]),
        "classes": [
            {"name": name, "train": int(t), "validation": int(v)}
            for name, t, v in zip(names, train, validation)
        ],
        "imbalance": float(train.max() / train.min()),
        "majority_accuracy": float(validation[train.argmax()] / validation.sum()),
        "duplicates": None if is_streamed(images[0]) else int(np.count_nonzero(repeated(*images))),
        "memory_bytes": int(images[0].nbytes + images[1].nbytes),
    }


def count_leaks(dataset: Dataset, test: HeldOut) -> int:
    """How many test images are also training or validation images, pixel by pixel; warns of them.

    The images are compared by a checksum of their pixels, and those with equal ones pixel by pixel.
    Of streamed parts, nothing else is decoded.

    Args:
        dataset: as `load_dataset` returns it.
        test: as `load_test_part` returns it, of the same source.
    """
    parts: tuple[Any, Any] = dataset.images, dataset.validation_images
    found = np.logical_or(*(repeated(part, test.images) for part in parts)).nonzero()[0]
    if len(found):
        warnings.warn(
            f"{len(found)} of {len(test.labels)} test images {'is' if len(found) == 1 else 'are'} "
            f"also among the training or validation images, pixel by pixel{_named(test, found)}: "
            "the test accuracy will be too high. Remove the copies from one part",
            stacklevel=2,
        )
    return len(found)


def _named(test: HeldOut, chosen: np.ndarray) -> str:
    """Some of the test part's images in brackets, where they have names."""
    if test.names is None:
        return ""
    some = ", ".join(test.names[index] for index in chosen[:SHOWN])
    more = f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
    return f" ({some}{more})"


def repeated(known: Images, images: Images) -> np.ndarray:
    """Which images (m, h, w, c) equal some known image (n, h, w, c): (m,) bool."""
    if known.shape[1:] != images.shape[1:]:
        return np.zeros(len(images), bool)
    places: dict[int, list[int]] = {}
    for place, found in enumerate(checksums(known).tolist()):
        places.setdefault(found, []).append(place)
    # Equal checksums are rare among different images, but not impossible: the pixels decide.
    return np.array(
        [
            any(np.array_equal(known[place], images[index]) for place in places.get(found, ()))
            for index, found in enumerate(checksums(images).tolist())
        ],
        bool,
    )


def contact_sheet(
    images: Any,
    labels: np.ndarray,
    n: int = 24,
    *,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> bytes:
    """A sheet of sample images with their classes, for the report.

    Args:
        images: (m, h, w, 1 or 3) uint8 as stored (an array or still encoded), or floats as a model
            sees them after preprocessing, which are scaled to the sheet's own range.
        labels: (m,) integers.
        n: number of samples, stratified by class; all of them if there are fewer.
        class_names: written under the images; the numbers if None.
        seed: of the choice of samples.

    Returns:
        A PNG file, six images a row.

    Raises:
        DataError: images that are not (m, h, w, 1 or 3).
    """
    if len(images.shape) != 4 or images.shape[-1] not in (1, 3):
        raise errors.DataError(
            f"images have shape {images.shape}", "Give (m, height, width, 1 or 3)"
        )
    chosen = stratified_subset(np.asarray(labels), n, seed)
    pixels = _to_uint8(gather(images, chosen))
    side = max(_TILE, *pixels.shape[1:3])
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * side, rows * (side + _CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (tile, index) in enumerate(zip(pixels, chosen)):
        x, y = (number % _COLUMNS) * side, (number // _COLUMNS) * (side + _CAPTION)
        # Enlarged without smoothing, so that the sheet shows the pixels themselves.
        picture = Image.fromarray(tile.squeeze(-1) if tile.shape[-1] == 1 else tile)
        scale = max(1, side // max(picture.size))
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
        )
        sheet.paste(picture, (x, y))
        label = int(np.asarray(labels)[index])
        text = class_names[label] if class_names else str(label)
        # Pillow's built-in font knows Latin-1 only.
        text = text.encode("latin-1", "replace").decode("latin-1")
        draw.text((x + 2, y + side), text[: side // 6], fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(pixels: np.ndarray) -> bytes:
    """One image as a small PNG, for the report: at most 96 pixels a side.

    Args:
        pixels: (height, width, 1 or 3) uint8.
    """
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((_TILE, _TILE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _to_uint8(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    images = images.astype(np.float64)
    low, high = images.min(), images.max()
    return np.round((images - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
