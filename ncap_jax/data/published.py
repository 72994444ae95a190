"""Published data sets in TFDS's format, read as ArrayRecord without TensorFlow."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.types import Dataset

# The target sets of the published experiment (caltech_birds2011 for its birds).
NAMES = ("cifar10", "cifar100", "svhn_cropped", "fashion_mnist", "caltech_birds2011")


def load_published(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The training part of a prepared TFDS set, and its validation part if it has one.

    The test part is not read.

    Args:
        name: TFDS's name.
        data_dir: where TFDS prepared it; None is TFDS's own default (`TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`).

    Raises:
        DataError: unknown name, not prepared there, or not images with one label each.
    """
    builder = _builder(name, data_dir)
    if "train" not in builder.info.splits:
        raise errors.DataError(
            f"{name} has no training part, only {', '.join(builder.info.splits)}",
            "Use a set with a split named train",
        )
    images, labels = _read(builder, "train")
    validation: tuple[Any, Any] = (None, None)
    if "validation" in builder.info.splits:
        validation = _read(builder, "validation")
    names = tuple(str(n) for n in builder.info.features["label"].names)
    info = {"source": f"TFDS {builder.info.full_name}"}
    return Dataset(images, labels, *validation, class_names=names, name=name, info=info)


def load_test_split(
    name: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The test part of a published set, for studies; selection never calls this.

    Args:
        name: TFDS's name.
        data_dir: as for `load_published`.

    Returns:
        images (n, h, w, c) uint8 and labels (n,) int32.

    Raises:
        DataError: as for `load_published`, or there is no test part.
    """
    builder = _builder(name, data_dir)
    if "test" not in builder.info.splits:
        raise errors.DataError(
            f"{name} has no test part, only {', '.join(builder.info.splits)}",
            "Use a set with a split named test",
        )
    return _read(builder, "test")


def known_names(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Names TFDS knows, and whatever else lies prepared in `data_dir`."""
    import tensorflow_datasets as tfds

    # Community data sets are left out: listing them asks a server.
    names = set(tfds.list_builders(with_community_datasets=False))
    root = _root(data_dir)
    if root.is_dir():
        names.update(child.name for child in root.iterdir() if child.is_dir())
    return sorted(names)


def _root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    if data_dir is not None:
        return pathlib.Path(data_dir).expanduser()
    from tensorflow_datasets.core import constants

    return pathlib.Path(constants.DATA_DIR).expanduser()


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The TFDS builder of the newest prepared version, read from its files alone.

    Nothing but the folder is looked at: TFDS's own look-up by name would ask a server.
    """
    import tensorflow_datasets as tfds

    root = _root(data_dir)
    prepared = sorted(
        (path.parent for path in (root / name).glob("*/dataset_info.json")), key=_version
    )
    if prepared:
        return tfds.builder_from_directory(prepared[-1])
    if name not in (known := known_names(data_dir)):
        raise errors.DataError(*errors.unknown_name("data set", name, ["digits", *known]))
    raise errors.DataError(f"{name} is not prepared in {root}", "Prepare it, or name its data_dir")


def _version(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(number) for number in path.name.split(".") if number.isdigit())


def _read(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    records = builder.as_data_source(split=split)
    examples = [records[i] for i in range(len(records))]
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)
