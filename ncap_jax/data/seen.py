"""Whether a model's weights were trained on the images that it is ranked on.

Such a model recalls what it has seen: its accuracy tells little about new images, and it beats
models that are better. What its weights were trained on is `ModelSpec.source`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ncap_jax.data.describe import repeated
from ncap_jax.data.load import load_dataset
from ncap_jax.data.published import is_prepared, list_published
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset

# Sets whose training images are those of another, by TFDS's names.
PARTS: Mapping[str, str] = {
    "downsampled_imagenet": "imagenet2012",
    "imagenet2012_subset": "imagenet2012",
    "imagenet_resized": "imagenet2012",
    "imagenette": "imagenet2012",
    "imagewang": "imagenet2012",
}


def seen_by(source: str, dataset: Dataset, data_dir: str | os.PathLike[str] | None = None) -> str:
    """How weights trained on `source` have seen the images of a data set before.

    A set is known by its name in TFDS. Other images are compared with those of `source`, pixel by
    pixel, if TFDS has it prepared in `data_dir` and its images all have the size of these.

    Args:
        source: TFDS's name of what the weights were trained on.
        dataset: as `load_dataset` returns it.
        data_dir: where TFDS keeps its sets; None: its own default.

    Returns:
        A sentence; empty if nothing shows that they have.
    """
    little = "the accuracy says little about other images"
    if origin(dataset) == source:
        return f"its weights were trained on {source}, from which these images are: {little}"
    copies, images = count_copies(source, dataset, data_dir)
    if not copies:
        return ""
    are = "is" if copies == 1 else "are"
    return (
        f"its weights were trained on {source}, in which {copies} of the {images} images {are}: "
        f"{little}"
    )


def origin(dataset: Dataset) -> str:
    """TFDS's name of the set that the images are from; empty if they are not from TFDS."""
    place, _, name = str(dataset.info.get("source", "")).partition(" ")
    name = name.split("/")[0] if place == "TFDS" else ""
    return PARTS.get(name, name)


def count_copies(
    source: str, dataset: Dataset, data_dir: str | os.PathLike[str] | None = None
) -> tuple[int, int]:
    """How many of the training and validation images are also in `source`, and of how many."""
    assert dataset.validation_images is not None
    parts = dataset.images, dataset.validation_images
    total = sum(map(len, parts))
    where = None if data_dir is None else os.fspath(data_dir)
    if not is_prepared(source, where):
        return 0, total
    if list_published(source, where, ("train",)).shape != dataset.images.shape[1:]:
        return 0, total
    known = load_dataset(source, DataConfig(data_dir=where))
    assert known.validation_images is not None
    copies = sum(
        np.count_nonzero(repeated(known.images, part) | repeated(known.validation_images, part))
        for part in parts
    )
    return int(copies), total
