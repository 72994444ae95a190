"""The image contract, and how arrays become a checked data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ncap_jax import errors
from ncap_jax.data.held_out import HeldOut, number_test_labels
from ncap_jax.data.images import Images, is_streamed, take
from ncap_jax.data.labels import check_text
from ncap_jax.data.sampling import Choice, Samples, choose_samples
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset

SHAPE = "Give (n, height, width, channels) with 1 (grey) or 3 (red, green, blue) channels"
RANGE = "Give uint8 pixels 0..255, or floats in 0..1"


def check_dataset(dataset: Dataset, config: DataConfig, *, seed: int) -> Dataset:
    """Bring any `Dataset` of arrays to the form that all later stages rely on.

    Args:
        dataset: images and labels in any form that `check_images` and `map_labels` take.
        config: the options of reading, already checked.
        seed: of the validation split and of the subsets.

    Returns:
        A set with uint8 images (n, h, w, 1 or 3), int32 labels 0..K-1, a validation part of
        the same image shape, and K class names. `info` records what was done: everything the
        source recorded, and `label_mapping`, `image_conversion`, `classes_without_validation`,
        `validation`, `subset_of` where they apply.

    Raises:
        DataError: images or labels that cannot be used.
        ConfigError: a fraction or a size that cannot work with this set.
    """
    check_text(dataset.name, "name of the data set")
    check_text(dataset.info, "note on the data set")
    info: dict[str, Any] = dict(dataset.info)
    images, choice = _chosen_samples(dataset, config, seed, info)
    _test_labels(dataset, config)  # refused before models train, not after
    return Dataset(
        images=_chosen(images, choice.train),
        labels=choice.train.labels,
        validation_images=_chosen(images, choice.validation),
        validation_labels=choice.validation.labels,
        class_names=choice.class_names,
        name=dataset.name,
        info=choice.info,
    )


def check_test_part(dataset: Dataset, config: DataConfig, *, seed: int) -> HeldOut | None:
    """The test part of any `Dataset` of arrays: its own, or what `test_fraction` sets aside.

    Args:
        dataset: as for `check_dataset`, with the same options and seed.
        config: the options of reading, already checked.
        seed: of the splits.

    Raises:
        DataError: images or labels that cannot be used, or a class that training lacks.
        ConfigError: a fraction that cannot work with this set.
    """
    images, choice = _chosen_samples(dataset, config, seed, {})
    if choice.test is not None:
        return HeldOut(_chosen(images, choice.test), choice.test.labels)
    labels = _test_labels(dataset, config)
    return None if labels is None else HeldOut(images[-1], labels)


def _test_labels(dataset: Dataset, config: DataConfig) -> np.ndarray | None:
    if dataset.test_labels is None:
        return None
    return number_test_labels(
        dataset.labels, dataset.test_labels, dataset.class_names, remap=config.remap_labels
    )


class _Part(NamedTuple):
    name: str
    images: Any
    labels: Any


def _chosen_samples(
    dataset: Dataset, config: DataConfig, seed: int, info: dict[str, Any]
) -> tuple[list[Any], Choice]:
    """The checked images of every part that is there, test last, and what they are used for."""
    parts, images = _parts(dataset), []
    for part in parts:
        checked, note = check_images(part.images, part.name)
        _check_lengths(checked, part.labels, part.name)
        images.append(checked)
        info.update({"image_conversion": note} if note else {})
    _check_same_shape(parts, images)
    labels = [part.labels for part in parts if part.name != "test"]
    num_test = len(images[-1]) if len(labels) < len(parts) else 0
    names = dataset.class_names
    return images, choose_samples(labels, names, config, seed=seed, info=info, num_test=num_test)


def _parts(dataset: Dataset) -> list[_Part]:
    """The training part, and the validation and the test part if there are such."""
    parts = [
        _Part("training", dataset.images, dataset.labels),
        _Part("validation", dataset.validation_images, dataset.validation_labels),
        _Part("test", dataset.test_images, dataset.test_labels),
    ]
    for part in parts[1:]:
        has_images, has_labels = part.images is not None, part.labels is not None
        if has_images != has_labels:
            given, missing = ("images", "labels") if has_images else ("labels", "images")
            raise errors.DataError(
                f"the data set has {part.name} {given} but no {part.name} {missing}",
                "Give both, or neither",
            )
    return [parts[0], *(part for part in parts[1:] if part.images is not None)]


def _chosen(images: list[Any], samples: Samples) -> Any:
    """The images of some samples; no copy where those are all of them."""
    given: Images = images[samples.source]
    return given if len(samples.indices) == len(given) else take(given, samples.indices)


def check_images(images: Any, what: str = "training") -> tuple[Any, str]:
    """Images as uint8 (n, height, width, 1 or 3).

    Args:
        images: (n, h, w) or (n, h, w, c) of uint8; of other integers in 0..255; or finite
            floats, in 0..1 (scaled by 255) or whole numbers in 0..255. `EncodedImages` are
            returned as they are.
        what: the part's name, for messages.

    Returns:
        The images, and what was converted (empty if nothing was).

    Raises:
        DataError: another shape, type or range, or no images.
    """
    if is_streamed(images):
        return images, ""
    array = _as_array(images, what)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise errors.DataError(f"{what} images have shape {array.shape}", SHAPE)
    if 0 in array.shape:
        raise errors.DataError(f"{what} images have shape {array.shape}, which is empty", SHAPE)
    if array.shape[-1] not in (1, 3):
        hint = " (channels first?)" if array.shape[1] in (1, 3) else ""
        raise errors.DataError(f"{what} images have shape {array.shape}{hint}", SHAPE)
    if array.dtype == np.uint8:
        return array, ""
    if array.dtype.kind == "f":
        return _from_floats(array, what)
    if array.dtype.kind not in "iu":
        raise errors.DataError(f"{what} images have type {array.dtype}", RANGE)
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise errors.DataError(f"{what} images have values from {low} to {high}", RANGE)
    return array.astype(np.uint8), f"{array.dtype} to uint8"


def _as_array(images: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(images)
    except ValueError:
        raise errors.DataError(
            f"{what} images do not form one array (different sizes?)",
            "Resize them to one size, or give an image folder, whose images are resized on reading",
        ) from None


def _from_floats(array: np.ndarray, what: str) -> tuple[np.ndarray, str]:
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))
        others = f" ({len(bad)} such images)" if len(bad) > 1 else ""
        raise errors.DataError(
            f"{what} image {bad[0]} contains NaN or infinity{others}",
            "Repair these images, or leave them out",
        )
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return np.round(array * 255).astype(np.uint8), f"{array.dtype} in 0..1 times 255"
    if low >= 0 and high <= 255 and (array == np.floor(array)).all():
        return array.astype(np.uint8), f"{array.dtype} to uint8"
    raise errors.DataError(f"{what} images have floats from {low:g} to {high:g}", RANGE)


def _check_lengths(images: np.ndarray, labels: Any, what: str) -> None:
    try:
        count = len(labels)
    except TypeError:  # not a list of anything, which `map_labels` refuses by name
        return
    if count != len(images):
        raise errors.DataError(
            f"there are {len(images)} {what} images but {count} labels",
            "Give one label per image",
        )


def _check_same_shape(parts: list[_Part], images: list[np.ndarray]) -> None:
    shape = images[0].shape[1:]
    for part, checked in zip(parts, images):
        if checked.shape[1:] != shape:
            raise errors.DataError(
                f"training images are {shape}, {part.name} images {checked.shape[1:]}",
                "Give both the same height, width and number of channels",
            )
