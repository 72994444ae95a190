"""Images with the classes that they are of, as a finished model is judged by them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ncap_jax import errors
from ncap_jax.data.encoded import printable
from ncap_jax.data.held_out import HeldOut
from ncap_jax.data.pairs import DataSource, as_source
from ncap_jax.types import Dataset
from ncap_jax.winner.images import Picture, collect, read_opened

# Classes that an error names.
SHOWN = 5
OWN = "Give (images, labels) as one pair, or a folder <class>/<image>"


class Labelled(NamedTuple):
    """Images and the numbers of their classes.

    Attributes:
        pictures: n images.
        labels: (n,) int64 in 0..K-1.
    """

    pictures: list[Picture]
    labels: np.ndarray


def labelled(
    dataset: DataSource | HeldOut, class_names: Sequence[str], data_dir: str | None = None
) -> Labelled:
    """The images that a model is to be judged by.

    Args:
        dataset: an image folder `<class>/<image>` or a CSV file of path,label, all of it, or its
            test part if it has parts; the name of a TFDS set, its test part; a Dataset: its test
            part, or, if it has no other part either, its images; what `load_test_part` returns;
            a pair (images, labels) of anything that `collect` takes and of class numbers or names.
        class_names: K names, in the order of the model's probabilities.
        data_dir: of TFDS sets; None: the default of `ncap_jax.DataConfig`.

    Raises:
        DataError: no such data, no test part, or a class that the model does not know.
    """
    if isinstance(dataset, HeldOut) or (isinstance(dataset, tuple | list) and len(dataset) == 2):
        images, labels = dataset
        return _pair(images, labels, class_names)
    source = as_source(dataset)
    if not isinstance(source, Dataset):
        return _listed(source, class_names, data_dir)
    names = class_names if source.class_names is None else source.class_names
    images, labels = _part(source)
    return _pair(images, _texts(labels, names), class_names)


def _part(dataset: Dataset) -> tuple[Any, Any]:
    """Images and labels of the test part, or of the only part."""
    if dataset.test_images is not None:
        return dataset.test_images, dataset.test_labels
    if dataset.validation_images is None:
        return dataset.images, dataset.labels
    raise errors.DataError(f"the data set {dataset.name} has no test part", OWN)


def _pair(images: Any, labels: Any, class_names: Sequence[str]) -> Labelled:
    pictures = collect(images)
    numbers = _numbers(labels, class_names)
    if len(numbers) != len(pictures):
        raise errors.DataError(
            f"there are {len(pictures)} images but {len(numbers)} labels",
            "Give one label per image",
        )
    return Labelled(pictures, numbers)


def _listed(
    source: str | os.PathLike[str], class_names: Sequence[str], data_dir: str | None
) -> Labelled:
    """The images of a folder, a CSV file or a TFDS set."""
    # Imported here: labelling images needs no reader of data sets.
    from ncap_jax.data.load import list_source

    listing = list_source(source, ("train", "test"), data_dir)
    if "test" not in listing.parts and {*listing.parts} != {"train"}:
        raise errors.DataError(f"{printable(source)} has no test part", OWN)
    encoded, labels = listing.parts["test" if "test" in listing.parts else "train"]
    pictures = [
        Picture(encoded.name(index), partial(read_opened, partial(encoded.open, index)))
        for index in range(len(encoded))
    ]
    return Labelled(pictures, _numbers(_texts(labels, listing.class_names), class_names))


def _texts(labels: Any, names: Sequence[str]) -> np.ndarray:
    """Labels as names of classes, of which numbers are the places."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        return array
    return np.asarray(names, object)[_in_range(array, len(names))]


def _numbers(labels: Any, class_names: Sequence[str]) -> np.ndarray:
    """Labels as the model's class numbers.

    Raises:
        DataError: not (n,) numbers or names, or a class that the model does not know.
    """
    array = np.asarray(labels)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return _in_range(array, len(class_names)).astype(np.int64)
    if array.ndim != 1 or not all(isinstance(label, str) for label in array):
        raise errors.DataError(
            f"labels have shape {array.shape} and type {array.dtype}",
            "Give one class number or class name per image",
        )
    known = {name: number for number, name in enumerate(class_names)}
    texts = array.astype(str).tolist()
    if unknown := sorted({*texts} - {*known}):
        raise _unknown(unknown, class_names)
    return np.array([known[label] for label in texts], np.int64)


def _in_range(labels: np.ndarray, classes: int) -> np.ndarray:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise errors.DataError(
            f"labels contain {wrong[0]}", f"Give class numbers from 0 to {classes - 1}"
        )
    return labels


def _unknown(unknown: list[str], class_names: Sequence[str]) -> errors.DataError:
    def some(names: Sequence[str]) -> str:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(map(repr, names[:SHOWN])) + more

    classes = "a class" if len(unknown) == 1 else f"{len(unknown)} classes"
    return errors.DataError(
        f"the data has {classes} that the model does not know: {some(unknown)}",
        f"Leave these images out, or rename the classes; the model knows {some(class_names)}",
    )
