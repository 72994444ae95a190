"""The image contract, and the one gate through which every data set passes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.images import is_streamed, take
from ncap_jax.data.labels import check_parts, map_labels
from ncap_jax.data.split import stratified_split, stratified_subset
from ncap_jax.types import Dataset

SHAPE = "Give (n, height, width, channels) with 1 (grey) or 3 (red, green, blue) channels"
RANGE = "Give uint8 pixels 0..255, or floats in 0..1"


def check_dataset(
    dataset: Dataset,
    *,
    seed: int = 0,
    validation_fraction: float = 0.2,
    max_train: int | None = None,
    max_validation: int | None = None,
    remap_labels: bool = False,
) -> Dataset:
    """Bring any `Dataset` of arrays to the form that all later stages rely on.

    Args:
        dataset: images and labels in any form that `check_images` and `map_labels` take.
        seed: of the validation split and of the subsets.
        validation_fraction: share of the training part split off for validation, stratified,
            where the set has no validation part; in (0, 1). One sample at least of every class
            that has two.
        max_train: at most so many training samples are kept, a stratified subset.
        max_validation: the same for validation.
        remap_labels: number integer classes that have gaps, instead of refusing them.

    Returns:
        A set with uint8 images (n, h, w, 1 or 3), int32 labels 0..K-1, a validation part of
        the same image shape, and K class names. `info` records what was done: everything the
        source recorded, and `label_mapping`, `image_conversion`, `classes_without_validation`,
        `validation`, `subset_of` where they apply.

    Raises:
        DataError: images or labels that cannot be used.
        ConfigError: a fraction or a size that cannot work.
    """
    info: dict[str, Any] = dict(dataset.info)
    parts = _parts(dataset)
    images = []
    for name, (pixels, labels) in parts.items():
        checked, note = check_images(pixels, name)
        _check_lengths(checked, labels, name)
        images.append(checked)
        info.update({"image_conversion": note} if note else {})
    _check_same_shape(images)
    numbers, class_names, done = map_labels(
        [labels for _, labels in parts.values()], dataset.class_names, remap=remap_labels
    )
    info.update(done)
    # Which samples of each part stay. Pixels are copied once, at the end.
    left = [np.arange(len(part)) for part in numbers]
    if len(parts) == 1:
        left, info["validation"] = _split(numbers[0], validation_fraction, seed)
        images, numbers = images * 2, numbers * 2
    info.setdefault("validation", "given")
    if max_train is not None and max_train < len(class_names):
        raise errors.ConfigError(
            f"max_train is {max_train} but there are {len(class_names)} classes",
            "Keep at least one training sample of each",
        )
    for number, limit in enumerate((max_train, max_validation)):
        if limit is not None and limit < (size := len(left[number])):
            keep = stratified_subset(numbers[number][left[number]], limit, seed)
            left[number] = left[number][keep]
            part = ("training", "validation")[number]
            info["subset_of"] = {**info.get("subset_of", {}), part: size}
    final = [part[kept] for part, kept in zip(numbers, left)]
    info.pop("classes_without_validation", None)
    info.update(check_parts(final, class_names))
    return Dataset(
        images=_keep(images[0], left[0]),
        labels=final[0],
        validation_images=_keep(images[1], left[1]),
        validation_labels=final[1],
        class_names=class_names,
        name=dataset.name,
        info=info,
    )


def _parts(dataset: Dataset) -> dict[str, tuple[Any, Any]]:
    """Images and labels by the part's name; one part, or two."""
    parts = {"training": (dataset.images, dataset.labels)}
    validation = (dataset.validation_images, dataset.validation_labels)
    given = [part is not None for part in validation]
    if any(given) and not all(given):
        raise errors.DataError(
            f"validation {'images' if given[0] else 'labels'} were given alone",
            "Give validation images and labels, or neither",
        )
    return {**parts, "validation": validation} if all(given) else parts


def _keep(images: Any, indices: np.ndarray) -> Any:
    """The images at ascending `indices`; no copy where those are all of them."""
    return images if len(indices) == len(images) else take(images, indices)


def check_images(images: Any, what: str = "training") -> tuple[Any, str]:
    """Images as uint8 (n, height, width, 1 or 3).

    Args:
        images: (n, h, w) or (n, h, w, c) of uint8; of other integers in 0..255; or finite
            floats, in 0..1 (scaled by 255) or whole numbers in 0..255. An `ImageStore` is
            returned as it is.
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
        raise errors.DataError(f"{what} images have shape {array.shape}: none at all", SHAPE)
    if array.shape[-1] not in (1, 3):
        hint = " (channels first?)" if array.shape[1] in (1, 3) else ""
        raise errors.DataError(f"{what} images have shape {array.shape}{hint}", SHAPE)
    if array.dtype == np.uint8:
        return array, ""
    if array.dtype.kind == "f":
        return _from_floats(array, what)
    if array.dtype.kind not in "iu":
        raise errors.DataError(f"{what} images are of type {array.dtype}", RANGE)
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise errors.DataError(f"{what} images hold pixels from {low} to {high}", RANGE)
    return array.astype(np.uint8), f"{array.dtype} to uint8"


def _as_array(images: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(images)
    except ValueError:
        raise errors.DataError(
            f"{what} images are not one array (different sizes?)",
            "Resize them to one size, or give an image folder, whose images are resized here",
        ) from None


def _from_floats(array: np.ndarray, what: str) -> tuple[np.ndarray, str]:
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))
        raise errors.DataError(
            f"{len(bad)} {what} images hold NaN or infinity, the first is image {bad[0]}",
            "Repair or leave out these images",
        )
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return np.round(array * 255).astype(np.uint8), f"{array.dtype} in 0..1 times 255"
    if low >= 0 and high <= 255 and (array == np.floor(array)).all():
        return array.astype(np.uint8), f"{array.dtype} to uint8"
    raise errors.DataError(f"{what} images hold floats from {low:g} to {high:g}", RANGE)


def _check_lengths(images: np.ndarray, labels: Any, what: str) -> None:
    if np.ndim(labels) > 0 and len(labels) != len(images):
        raise errors.DataError(
            f"{len(images)} {what} images but {len(labels)} labels", "Give one label an image"
        )


def _check_same_shape(images: list[np.ndarray]) -> None:
    shapes = [part.shape[1:] for part in images]
    if len(set(shapes)) > 1:
        raise errors.DataError(
            f"training images are {shapes[0]}, validation images {shapes[1]}",
            "Bring both to one height, width and number of channels",
        )


def _split(labels: np.ndarray, fraction: float, seed: int) -> tuple[list[np.ndarray], str]:
    if not 0 < fraction < 1:
        raise errors.ConfigError(
            f"validation_fraction is {fraction}", "Give a share between 0 and 1, such as 0.2"
        )
    # One of every class that has two, whatever the fraction: a class that nobody validates would
    # go unseen.
    size = max(round(fraction * len(labels)), int(np.count_nonzero(np.bincount(labels) > 1)))
    parts = stratified_split(labels, size, seed)
    return list(parts), f"{size} of {len(labels)} training samples, stratified, seed {seed}"
