"""From listed images to a checked data set: one stored size, broken files, memory or stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ncap_jax import errors
from ncap_jax.data import decode
from ncap_jax.data.encoded import ImageStore, Source
from ncap_jax.data.held_out import HeldOut, number_test_labels
from ncap_jax.data.images import checksum
from ncap_jax.data.labels import check_parts
from ncap_jax.data.listing import MAX_NAMED, Listing, summary
from ncap_jax.data.sampling import Choice, Samples, choose_samples
from ncap_jax.data.threads import WORKERS, ordered_map
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset

# Larger sides are not stored: few models take more than 299 pixels.
MAX_STORED_SIDE = 256
# Images of fewer pixels are decoded by one thread: most of the work is then done in Python, whose
# lock several threads would only contend for.
SMALL_PIXELS = 64 * 64
# Decoded images up to this many bytes are held in memory (and on the device) as a whole.
IN_MEMORY_BYTES = 2 * 2**30
# Broken files that an error message names.
MAX_SHOWN = 10


def ingest(listing: Listing, config: DataConfig, *, seed: int) -> Dataset:
    """Turn listed images into a checked data set.

    1. Read all headers: what is not an image, or hostile by its size, is broken.
    2. Choose the size at which images are stored (`stored_size`).
    3. Check labels, split off validation, draw subsets (`choose_samples`).
    4. Decode every image that is left, once. What fails is broken. In memory the pixels are
       kept; a stream decodes them again whenever it needs them.

    Args:
        listing: the images; its test part is not touched.
        config: the options of reading, already checked.
        seed: of the validation split and of the subsets.

    Returns:
        A checked set. `info` has `stored_size`, and where they apply `skipped`
        {count, files {name: reason}} and `converted` {note: {count, files}}.

    Raises:
        DataError: broken images and not `skip_broken`; no usable labels.
        ConfigError: an option that cannot work with this set.
    """
    with decode.pillow_silenced():
        parts = _open_parts(listing, ("train", "validation"), config.image_size)
        headers = _merged(part.broken for part in parts)
        _refuse_broken(headers, config)
        size = {"stored_size": "×".join(map(str, parts[0].store.size))}
        choice = _choose(parts, listing, config, seed, {**listing.info, **size})
        train, validation = (
            parts[samples.source].store.take(samples.indices)
            for samples in (choice.train, choice.validation)
        )
        keep = _keeps(config, train, validation)
        decoded = [_decode_all(store, keep=keep) for store in (train, validation)]
        broken = {**headers, **_merged(part.broken for part in decoded)}
        _refuse_broken(broken, config)
    return _assemble(listing.name, choice, decoded, broken)


def ingest_test(listing: Listing, config: DataConfig, *, seed: int) -> HeldOut | None:
    """The test part, with the size and the numbers of classes that the training part has.

    Args:
        listing: the images, those of the test part among them if it has one.
        config: the options of reading, already checked.
        seed: of the splits; with the same options, `ingest` leaves out what is set aside here.

    Returns:
        The set's own test part, or what `test_fraction` sets aside; None: there is neither.

    Raises:
        DataError: a test part that cannot be used.
        ConfigError: a fraction that cannot work with this set.
    """
    if not listing.num_test and config.test_fraction is None:
        return None
    with decode.pillow_silenced():
        own = _own_test(listing, config) if listing.num_test else _set_aside(listing, config, seed)
        decoded = _decode_all(own.store, keep=_keeps(config, own.store))
        broken = {**own.broken, **decoded.broken}
        _refuse_broken(broken, config)
    return HeldOut(
        decoded.images,
        own.labels[decoded.kept],
        tuple(own.store.name(int(index)) for index in decoded.kept),
        summary("skipped", broken) | _conversions([decoded]),
    )


def _own_test(listing: Listing, config: DataConfig) -> _Part:
    # The training part's headers give the stored size; its broken files do not matter here.
    train, test = _open_parts(listing, ("train", "test"), config.image_size)
    _refuse_broken(test.broken, config)
    if not len(test.store):
        raise _nothing_usable(listing.name, test.broken, "test")
    remap = config.remap_labels
    labels = number_test_labels(train.labels, test.labels, listing.class_names, remap=remap)
    return replace(test, labels=labels)


def _set_aside(listing: Listing, config: DataConfig, seed: int) -> _Part:
    parts = _open_parts(listing, ("train", "validation"), config.image_size)
    _refuse_broken(_merged(part.broken for part in parts), config)
    test = _choose(parts, listing, config, seed, {}).test
    assert test is not None  # a fraction is given
    return _Part(parts[0].store.take(test.indices), test.labels, {})


def _choose(
    parts: list[_Part], listing: Listing, config: DataConfig, seed: int, info: dict[str, Any]
) -> Choice:
    labels, names = [part.labels for part in parts], listing.class_names
    return choose_samples(labels, names, config, seed=seed, info=info, num_test=listing.num_test)


def _keeps(config: DataConfig, *stores: ImageStore) -> bool:
    """Whether the pixels are held in memory."""
    if config.stream is None:
        return sum(store.nbytes for store in stores) <= IN_MEMORY_BYTES
    return not config.stream


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


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a listing as far as its headers tell.

    Attributes:
        store: the images whose headers can be read.
        labels: theirs, as they were given.
        broken: the others: name -> reason.
    """

    store: ImageStore
    labels: np.ndarray
    broken: dict[str, str]


class _Headers(NamedTuple):
    """Which images of a source can be read, their (height, width), and what is broken."""

    indices: np.ndarray
    sizes: list[tuple[int, int]]
    broken: dict[str, str]


def _open_parts(listing: Listing, names: tuple[str, ...], image_size: int | None) -> list[_Part]:
    """The named parts that the listing has, the training part first."""
    present = [listing.parts[name] for name in names if name in listing.parts]
    headers = [_read_headers(source, listing.shape) for source, _ in present]
    if not headers[0].sizes:
        raise _nothing_usable(listing.name, _merged(each.broken for each in headers), "training")
    channels, threads = 3, WORKERS
    if listing.shape is not None:
        height, width, channels = listing.shape
        threads = 1 if height * width < SMALL_PIXELS else WORKERS
    size = stored_size(headers[0].sizes, image_size)
    return [
        _Part(
            ImageStore(source, read.indices, size, channels, threads),
            np.asarray(labels)[read.indices],
            read.broken,
        )
        for (source, labels), read in zip(present, headers)
    ]


def _nothing_usable(name: str, broken: Mapping[str, str], part: str) -> errors.DataError:
    if not broken:
        return errors.DataError(f"{name} has no {part} images", "Add some")
    first, reason = next(iter(broken.items()))
    return errors.DataError(
        f"{name} has no usable {part} images: {len(broken)} are broken, the first is "
        f"{first}: {reason}",
        "Give images in one of the formats JPEG, PNG, WebP, BMP, GIF and TIFF",
    )


def _read_headers(source: Source, shape: tuple[int, int, int] | None) -> _Headers:
    """Read the header of every image, unless the source promises one shape for all."""
    if shape is not None:
        return _Headers(np.arange(len(source)), [shape[:2]], {})

    def size_of(index: int) -> tuple[int, int] | decode.BrokenImageError:
        try:
            with source.open(index) as file:
                return decode.read_size(file)
        except decode.BrokenImageError as error:
            return error

    indices, sizes, broken = [], [], {}
    for index, size in enumerate(ordered_map(size_of, len(source))):
        if isinstance(size, decode.BrokenImageError):
            broken[source.name(index)] = size.cause
        else:
            indices.append(index)
            sizes.append(size)
    return _Headers(np.array(indices, np.int64), sizes, broken)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A part after every image was decoded once.

    Attributes:
        images: the sound ones, as pixels or still encoded.
        kept: their numbers among those that were to be decoded.
        broken: the others: name -> reason.
        notes: what had to be converted: note -> names.
    """

    images: Any
    kept: np.ndarray
    broken: dict[str, str]
    notes: dict[str, list[str]]


def _decode_all(store: ImageStore, *, keep: bool) -> _Decoded:
    """Decode every image once; keep the pixels, or only what they add up to."""

    def attempt(index: int) -> tuple[Any, tuple[str, ...]] | decode.BrokenImageError:
        try:
            pixels, notes = store.decode(index, verify=True)
            return (pixels if keep else checksum(pixels)), notes
        except decode.BrokenImageError as error:
            return error

    # Of every image its pixels, or its checksum: a stream must find the same pixels again.
    content = np.empty(store.shape, np.uint8) if keep else np.empty(len(store), np.uint32)
    kept: list[int] = []
    broken: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for index, result in enumerate(ordered_map(attempt, len(store), store.threads)):
        if isinstance(result, decode.BrokenImageError):
            broken[store.name(index)] = result.cause
            continue
        content[len(kept)] = result[0]
        for note in result[1]:
            notes.setdefault(note, []).append(store.name(index))
        kept.append(index)
    sound, content = np.array(kept, np.int64), content[: len(kept)]
    images = content if keep else replace(store.take(sound), known=content)
    return _Decoded(images, sound, broken, notes)


def _assemble(
    name: str, choice: Choice, decoded: list[_Decoded], broken: Mapping[str, str]
) -> Dataset:
    """The data set of the samples that were chosen and could be decoded."""
    chosen: tuple[Samples, Samples] = choice.train, choice.validation
    labels = [samples.labels[part.kept] for samples, part in zip(chosen, decoded)]
    info = {k: v for k, v in choice.info.items() if k != "classes_without_validation"}
    info |= summary("skipped", broken) | _conversions(decoded)
    info |= check_parts(labels, choice.class_names)  # a class may have lost its last image
    info["memory"] = "in memory" if isinstance(decoded[0].images, np.ndarray) else "streamed"
    return Dataset(
        images=decoded[0].images,
        labels=labels[0],
        validation_images=decoded[1].images,
        validation_labels=labels[1],
        class_names=choice.class_names,
        name=name,
        info=info,
    )


def _conversions(decoded: Iterable[_Decoded]) -> dict[str, Any]:
    """`{"converted": {note: {"count": n, "files": [name]}}}`; empty where nothing was."""
    notes: dict[str, list[str]] = {}
    for part in decoded:
        for note, names in part.notes.items():
            notes.setdefault(note, []).extend(names)
    converted = {
        note: {"count": len(names), "files": names[:MAX_NAMED]}
        for note, names in sorted(notes.items())
    }
    return {"converted": converted} if converted else {}


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Several mappings as one."""
    return {name: reason for part in parts for name, reason in part.items()}


def _refuse_broken(broken: Mapping[str, str], config: DataConfig) -> None:
    """Stop over broken images unless they may be skipped."""
    if not broken or config.skip_broken:
        return
    some = "; ".join(f"{name}: {reason}" for name, reason in list(broken.items())[:MAX_SHOWN])
    more = f"; and {len(broken) - MAX_SHOWN} more" if len(broken) > MAX_SHOWN else ""
    what = "1 image is broken" if len(broken) == 1 else f"{len(broken)} images are broken"
    raise errors.DataError(
        f"{what}: {some}{more}",
        "Repair or remove them, or leave them out with skip_broken=True (--skip_broken)",
    )
