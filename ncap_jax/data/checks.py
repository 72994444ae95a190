"""The image contract, and how arrays become a checked data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ncap_jax import errors
from ncap_jax.data.images import Images, is_streamed, take
from ncap_jax.data.labels import check_text
from ncap_jax.data.sampling import Samples, choose_samples
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
    parts, images = _parts(dataset), []
    for part in parts:
        checked, note = check_images(part.images, part.name)
        _check_lengths(checked, part.labels, part.name)
        images.append(checked)
        info.update({"image_conversion": note} if note else {})
    _check_same_shape(images)
    choice = choose_samples(
        [part.labels for part in parts], dataset.class_names, config, seed=seed, info=info
    )
    return Dataset(
        images=_chosen(images, choice.train),
        labels=choice.train.labels,
        validation_images=_chosen(images, choice.validation),
        validation_labels=choice.validation.labels,
        class_names=choice.class_names,
        name=dataset.name,
        info=choice.info,
    )


class _Part(NamedTuple):
    name: str
    images: Any
    labels: Any


def _parts(dataset: Dataset) -> list[_Part]:
    """The training part, and the validation part if there is one."""
    train = _Part("training", dataset.images, dataset.labels)
    validation = _Part("validation", dataset.validation_images, dataset.validation_labels)
    has_images, has_labels = validation.images is not None, validation.labels is not None
    if has_images != has_labels:
        given, missing = ("images", "labels") if has_images else ("labels", "images")
        raise errors.DataError(
            f"the data set has validation {given} but no validation {missing}",
            "Give both, or neither",
        )
    return [train, validation] if has_images else [train]


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


def _check_same_shape(images: list[np.ndarray]) -> None:
    shapes = [part.shape[1:] for part in images]
    if len(set(shapes)) > 1:
        raise errors.DataError(
            f"training images are {shapes[0]}, validation images {shapes[1]}",
            "Give both the same height, width and number of channels",
        )
