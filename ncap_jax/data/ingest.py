"""From listed images to a checked data set: one stored size, broken files, memory or stream."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data import decode
from ncap_jax.data.checks import check_dataset
from ncap_jax.data.images import WORKERS, ImageStore, Source, parallel
from ncap_jax.data.labels import check_parts, map_labels
from ncap_jax.data.listing import MAX_NAMED, Listing, summary
from ncap_jax.types import Dataset

# Larger sides are not stored: few models take more than 299 pixels.
MAX_STORED_SIDE = 256
MAX_IMAGE_SIZE = 4096
# Images of fewer pixels are decoded by one thread: most of the work is then done in Python, whose
# lock the threads would only hand to and fro.
SMALL_PIXELS = 64 * 64
# Decoded images up to this many bytes are held in memory (and on the device) as a whole.
IN_MEMORY_BYTES = 2 * 2**30


def ingest(
    listing: Listing,
    *,
    image_size: int | None = None,
    skip_broken: bool = False,
    stream: bool | None = None,
    **checks: Any,
) -> Dataset:
    """Turn listed images into a checked data set.

    1. Read all headers: what is no image, or hostile by its size, is broken.
    2. Choose the size at which images are stored (`stored_size`).
    3. Check labels, split off validation, draw subsets (`check_dataset`).
    4. Decode every image that is left, once. What fails is broken. In memory the pixels are
       kept; a stream decodes them again whenever it needs them.

    Args:
        listing: the images; its test part is not touched.
        image_size: side in pixels of the stored squares; None chooses.
        skip_broken: leave broken images out and record them, instead of stopping.
        stream: keep images encoded and decode them on demand; None does so if they would take
            more than `IN_MEMORY_BYTES` decoded.
        **checks: passed to `check_dataset`.

    Returns:
        A checked set. `info` has `stored_size`, and where they apply `skipped`
        {count, files {name: reason}} and `converted` {note: {count, files}}.

    Raises:
        DataError: broken images and not `skip_broken`; no usable labels.
        ConfigError: an option that cannot work.
    """
    with _quiet():
        stores, labels, broken = _stores(listing, ("train", "validation"), image_size)
        _judge(broken, skip_broken)
        listed = Dataset(
            images=_as_images(stores["train"]),
            labels=labels["train"],
            validation_images=_as_images(stores.get("validation")),
            validation_labels=labels.get("validation"),
            class_names=listing.class_names,
            name=listing.name,
            info={**listing.info, "stored_size": "×".join(map(str, stores["train"].size))},
        )
        checked = check_dataset(listed, **checks)
        if stream is None:
            size = checked.images.nbytes + _validation(checked)[0].nbytes
            stream = size > IN_MEMORY_BYTES
        return _decode_all(checked, broken, skip_broken, stream)


def ingest_test(
    listing: Listing, *, image_size: int | None = None, skip_broken: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The test part, decoded to the size and numbered by the classes of the training part.

    Returns:
        images (n, h, w, c) uint8 and labels (n,) int32.

    Raises:
        DataError: there is no test part, or it cannot be used.
    """
    if "test" not in listing.parts:
        raise errors.DataError(
            f"{listing.name} has no test part, only {', '.join(listing.parts)}",
            "Add a split named test",
        )
    with _quiet():
        # The training part's headers give the stored size; its broken files do not matter here.
        stores, labels, found = _stores(listing, ("train", "test"), image_size)
        test = listing.parts["test"][0]
        tested = {test.name(index) for index in range(len(test))}
        broken = {name: reason for name, reason in found.items() if name in tested}
        (_, numbers), _, _ = map_labels([labels["train"], labels["test"]], listing.class_names)
        pixels, kept = _decode_part(stores["test"], broken, {}, keep=True)
        _judge(broken, skip_broken)
        return pixels, numbers[kept]


def stored_size(sizes: list[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """The one (height, width) to which images of different sizes are decoded.

    `image_size` squared if given. Else, if all images have one size of at most
    `MAX_STORED_SIDE` a side, that size: nothing is resized. Else squares whose side is the
    median of the images' short sides, `MAX_STORED_SIDE` at most. Aspect ratios are not kept:
    the whole of every image is seen.

    Args:
        sizes: (height, width) of every training image.
        image_size: the side asked for, or None.
    """
    if image_size is not None:
        return image_size, image_size
    if len(set(sizes)) == 1 and max(sizes[0]) <= MAX_STORED_SIDE:
        return sizes[0]
    side = min(int(np.median([min(size) for size in sizes])), MAX_STORED_SIDE)
    return side, side


def _stores(
    listing: Listing, parts: tuple[str, ...], image_size: int | None
) -> tuple[dict[str, ImageStore], dict[str, np.ndarray], dict[str, str]]:
    """A store and the labels of each part present, and what is broken by its header."""
    if image_size is not None and not decode.MIN_SIDE <= image_size <= MAX_IMAGE_SIZE:
        raise errors.ConfigError(
            f"image_size is {image_size}",
            f"Give a side of {decode.MIN_SIDE} to {MAX_IMAGE_SIZE} pixels",
        )
    broken: dict[str, str] = {}
    chosen = {part: listing.parts[part] for part in parts if part in listing.parts}
    kept = {part: np.arange(len(source)) for part, (source, _) in chosen.items()}
    if listing.shape is not None:
        sizes, channels = [listing.shape[:2]], listing.shape[2]
        threads = 1 if listing.shape[0] * listing.shape[1] < SMALL_PIXELS else WORKERS
    else:
        scans = {part: _scan(source, broken) for part, (source, _) in chosen.items()}
        kept = {part: indices for part, (indices, _) in scans.items()}
        sizes, channels, threads = scans["train"][1], 3, WORKERS
    if not sizes:
        first = ": ".join(next(iter(broken.items()), ("", "")))
        raise errors.DataError(
            f"{listing.name} has no usable training images",
            f"The first of {len(broken)} broken ones is {first}" if broken else "Add some",
        )
    size = stored_size(sizes, image_size)
    stores = {
        part: ImageStore(source, kept[part], size, channels, threads)
        for part, (source, _) in chosen.items()
    }
    labels = {part: np.asarray(given)[kept[part]] for part, (_, given) in chosen.items()}
    return stores, labels, broken


def _scan(source: Source, broken: dict[str, str]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Indices and sizes of the images whose headers can be read; the others go to `broken`."""

    def size_of(index: int) -> tuple[int, int] | decode.BrokenImageError:
        try:
            with source.open(index) as file:
                return decode.read_size(file)
        except decode.BrokenImageError as error:
            return error

    indices, sizes = [], []
    for index, size in enumerate(parallel(size_of, len(source))):
        if isinstance(size, decode.BrokenImageError):
            broken[source.name(index)] = size.cause
        else:
            indices.append(index)
            sizes.append(size)
    return np.array(indices, np.int64), sizes


def _decode_all(
    checked: Dataset, broken: dict[str, str], skip_broken: bool, stream: bool
) -> Dataset:
    """Decode every image once; keep the pixels, or only the knowledge that it can be done."""
    notes: dict[str, list[str]] = collections.defaultdict(list)
    images, labels = [], []
    parts: list[tuple[Any, Any]] = [(checked.images, checked.labels), _validation(checked)]
    for store, numbers in parts:
        pixels, kept = _decode_part(store, broken, notes, keep=not stream)
        images.append(store.take(kept) if stream else pixels)
        labels.append(numbers[kept])
    _judge(broken, skip_broken)
    # A class may have lost its last image.
    lacking = check_parts(labels, checked.class_names or ())
    converted = {
        note: {"count": len(files), "files": files[:MAX_NAMED]}
        for note, files in sorted(notes.items())
    }
    info = {
        **{k: v for k, v in checked.info.items() if k != "classes_without_validation"},
        **summary("skipped", broken),
        **({"converted": converted} if converted else {}),
        **lacking,
        "memory": "streamed" if stream else "in memory",
    }
    return dataclasses.replace(
        checked,
        images=images[0],
        labels=labels[0],
        validation_images=images[1],
        validation_labels=labels[1],
        info=info,
    )


def _decode_part(
    store: ImageStore, broken: dict[str, str], notes: dict[str, list[str]], keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the images that can be decoded (none if not `keep`), and their indices."""

    def attempt(index: int) -> tuple[Any, tuple[str, ...]] | decode.BrokenImageError:
        try:
            pixels, done = store.decode(index, verify=True)
            return (pixels if keep else None), done
        except decode.BrokenImageError as error:
            return error

    pixels = np.empty(store.shape if keep else (0, *store.shape[1:]), np.uint8)
    kept: list[int] = []
    for index, result in enumerate(parallel(attempt, len(store), store.threads)):
        if isinstance(result, decode.BrokenImageError):
            broken[store.name(index)] = result.cause
            continue
        if keep:
            pixels[len(kept)] = result[0]
        for note in result[1]:
            notes.setdefault(note, []).append(store.name(index))
        kept.append(index)
    return pixels[: len(kept)], np.array(kept, np.int64)


def _judge(broken: dict[str, str], skip_broken: bool) -> None:
    """Stop over broken images unless they may be skipped."""
    if broken and not skip_broken:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(broken.items())[:10])
        more = f"; and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise errors.DataError(
            f"{len(broken)} images are broken: {some}{more}",
            "Repair or remove them, or leave them out with skip_broken=True (--skip_broken)",
        )


def _validation(checked: Dataset) -> tuple[Any, Any]:
    """The validation part, which a checked set always has."""
    return checked.validation_images, checked.validation_labels


def _as_images(store: ImageStore | None) -> Any:
    """A store where an array is expected: it has the array's shape, type, length and order."""
    return store


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings of damaged metadata and of sizes that `decode` judges itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield
