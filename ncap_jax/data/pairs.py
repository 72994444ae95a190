"""Arrays that come without a record: pairs of images and labels, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.types import Dataset

NameOrPath = str | os.PathLike[str]
# What `rank_models` and `load_dataset` take; the tuple is (images, labels).
DataSource = NameOrPath | Dataset | tuple[Any, Any]

PAIR = "Give (images, labels) as one pair"
PARTS = f"{PAIR}, or ncap_jax.Dataset(images, labels, validation_images, validation_labels)"
COLLECT = "Collect its images and its labels into two arrays, and give (images, labels) as one pair"
FORMS = (
    "Give a name, the path of a folder or CSV file, (images, labels) as one pair, or "
    "ncap_jax.Dataset(images, labels)"
)


def as_source(source: Any) -> NameOrPath | Dataset:
    """A pair of arrays as a `Dataset`; names, paths and data sets as they are.

    Args:
        source: whatever a caller gave. Of a pair, a tuple or a list, each part is anything that
            `np.asarray` takes; the arrays themselves are checked later.

    Raises:
        DataError: it is none of these; the type is named.
    """
    if isinstance(source, str | os.PathLike | Dataset):
        return source
    if isinstance(source, tuple | list):
        if _is_pair(source):
            return Dataset(*source)
        what = f"a {type(source).__name__} of {len(source)}"
        raise errors.DataError(f"{what} is not a pair of images and labels", PARTS)
    if isinstance(getattr(source, "shape", None), tuple) and hasattr(source, "dtype"):
        raise errors.DataError(f"an array of shape {source.shape} has no labels", PAIR)
    name = type(source).__name__
    article = "an" if name[0].lower() in "aeiou" else "a"
    what = "None" if source is None else f"{article} {name}"
    samples = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
    raise errors.DataError(f"{what} is not a data set", COLLECT if samples else FORMS)


def refuse_apart(dataset: Any, config: Any) -> None:
    """Refuse images and labels that were given as two arguments, `f(images, labels)`.

    Args:
        dataset: the argument for the data set.
        config: the argument after it.

    Raises:
        DataError: both are arrays.
    """
    if _is_array(dataset) and _is_array(config):
        raise errors.DataError("images and labels are given as two arguments", PAIR)


def _is_pair(source: tuple[Any, ...] | list[Any]) -> bool:
    """Whether these are images and labels, and not two such pairs, training and validation."""
    if len(source) != 2 or not all(map(_is_array, source)):
        return False
    first = source[0]
    nested = isinstance(first, tuple | list) and len(first) == 2 and all(map(_is_array, first))
    # Of two images both have as many axes; of images and labels the images have more.
    return not (nested and np.ndim(first[0]) != np.ndim(first[1]))


def _is_array(value: Any) -> bool:
    """Whether a value may become an array with at least one axis."""
    if isinstance(value, str | bytes | os.PathLike | Mapping | Iterator | Dataset):
        return False
    return hasattr(value, "__len__")
