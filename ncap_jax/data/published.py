"""Published data sets in TFDS's format, read as ArrayRecord without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from ncap_jax import caching, errors
from ncap_jax.data.encoded import printable
from ncap_jax.data.listing import Listing

# Records that are read at a time for their labels.
_CHUNK = 1024
# Share of letters in common from which on a name counts as misspelt, as difflib measures it:
# `cifar` for cifar10 has 0.83, `photos` and its nearest set of images 0.6.
_NEAR = 0.7


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The encoded images of one split.

    Attributes:
        records: TFDS's data source, with the decoding of images left out.
        split: its name, for messages.
    """

    records: Any
    split: str

    def __len__(self) -> int:
        return len(self.records)

    def open(self, index: int) -> BinaryIO:
        """The image as TFDS stored it: JPEG or PNG."""
        return io.BytesIO(self.records[index]["image"])

    def name(self, index: int) -> str:
        """Split and record number."""
        return f"{self.split} record {index}"


def list_published(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    parts: Sequence[str],
) -> Listing:
    """List the splits of a prepared TFDS set that are named in `parts`, where it has them.

    Args:
        name: TFDS's name.
        data_dir: where TFDS prepared it; None is TFDS's own default (`TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`).
        parts: of train, validation, test; the others are not opened.

    Raises:
        DataError: unknown name, not prepared there, no training part, or not images with one
            label each.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    features, splits = dict(builder.info.features.items()), builder.info.splits
    if "train" not in splits:
        raise errors.DataError(
            f"{name} has no training part, only {', '.join(splits)}",
            "Use a set with a split named train",
        )
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and features["image"].np_dtype == np.uint8
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        raise errors.DataError(
            f"{name} is not a set of uint8 images with one class label each: its features are "
            f"{', '.join(sorted(features))}",
            "Use a set with the features `image` and `label`",
        )
    height, width, channels = features["image"].shape
    fixed = None not in (height, width) and channels in (1, 3)
    return Listing(
        name,
        {part: _records(builder, part) for part in parts if part in splits},
        tuple(str(name) for name in features["label"].names),
        shape=(height, width, channels) if fixed else None,
        info={"source": f"TFDS {builder.info.full_name}"},
        num_test=splits["test"].num_examples if "test" in splits else 0,
    )


def known_names(data_dir: str | os.PathLike[str] | None) -> list[str]:
    """Names TFDS knows, and whatever else lies prepared in `data_dir`."""
    import tensorflow_datasets as tfds

    # Community data sets are left out: listing them asks a server.
    names = set(tfds.list_builders(with_community_datasets=False))
    root = _root(data_dir)
    if root.is_dir():
        names.update(path.parent.parent.name for path in root.glob("*/*/dataset_info.json"))
    return sorted(names)


def is_prepared(name: str, data_dir: str | os.PathLike[str] | None) -> bool:
    """Whether a set lies there, by its files alone: to import TFDS takes a second."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return any(caching.expanded(root).glob(f"{name}/*/dataset_info.json"))


def _unknown(name: str, known: Sequence[str]) -> tuple[str, str]:
    """Cause and remedy: a misspelt set of images, or else a folder that is not there."""
    near = difflib.get_close_matches(name.lower(), ["digits", *known], n=10, cutoff=_NEAR)
    images = [found for found in near if found == "digits" or _may_hold_images(found)]
    if images:
        return f"unknown data set {name!r}", f"Did you mean {' or '.join(images[:3])}"
    return (
        f"{name!r} is neither a folder in {printable(os.getcwd())} nor the name of a data set",
        "Give the path of a folder or CSV file, or a name such as digits or cifar10",
    )


def _may_hold_images(name: str) -> bool:
    """False where TFDS says that a set holds something else."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_cls(name)
    except ImportError:  # what else its builder needs is not installed: texts, molecules
        return False
    except tfds.core.DatasetNotFoundError:  # somebody's own, prepared in data_dir
        return True
    # Older sets have no tags, but lie in folders by kind.
    tags = builder.get_metadata().tags
    return "image_classification" in builder.__module__ or "content.data-type.image" in tags


def _root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    if data_dir is not None:
        return caching.expanded(data_dir)
    from tensorflow_datasets.core import constants

    return caching.expanded(constants.DATA_DIR)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The TFDS builder of the newest prepared version, read from its files alone.

    Only the folder is read: TFDS's own look-up by name would ask a server.
    """
    import tensorflow_datasets as tfds

    root = _root(data_dir)
    prepared = sorted(
        (path.parent for path in (root / name).glob("*/dataset_info.json")), key=_version
    )
    if prepared:
        with _damage_named(prepared[-1]):
            return tfds.builder_from_directory(prepared[-1])
    if name not in (known := known_names(data_dir)):
        raise errors.DataError(*_unknown(name, known))
    raise errors.DataError(
        f"{name} is not prepared in {root}",
        f"Give the data_dir that holds it, or prepare it once, which needs TensorFlow: "
        f"pip install 'ncap_jax[tf]' && {_build_command(name, root)}",
    )


def _build_command(name: str, root: pathlib.Path) -> str:
    return f"tfds build {name} --file_format=array_record --data_dir={root}"


def _version(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(number) for number in path.name.split(".") if number.isdigit())


def _records(builder: Any, split: str) -> tuple[Records, np.ndarray]:
    """The images of a split, still encoded, and their labels (n,) int64."""
    import tensorflow_datasets as tfds

    features = builder.info.features.items()
    pictures = [name for name, feature in features if isinstance(feature, tfds.features.Image)]
    decoders = {name: tfds.decode.SkipDecoding() for name in pictures}
    try:
        with _damage_named(builder.data_dir):
            records = builder.as_data_source(split=split, decoders=decoders)
            labels = _labels(records)
    except NotImplementedError:
        root = pathlib.Path(builder.data_dir).parents[1]
        raise errors.DataError(
            f"{builder.info.full_name} in {root} is not stored as ArrayRecord",
            "Prepare it in another data_dir, which needs TensorFlow: pip install "
            f"'ncap_jax[tf]' && {_build_command(builder.name, root / 'array_record')}",
        ) from None
    return Records(records, split), labels


def _labels(records: Any) -> np.ndarray:
    """The labels (n,) int64 of all records, which reads each of them once."""
    labels = [
        example["label"]
        for start in range(0, len(records), _CHUNK)
        for example in records.__getitems__(range(start, min(start + _CHUNK, len(records))))
    ]
    return np.array(labels, np.int64)


@contextlib.contextmanager
def _damage_named(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the readers of damaged files raise into an error that names the folder."""
    import google.protobuf.json_format

    try:
        yield
    # RuntimeError: the ArrayRecord reader, in C++. The others: the JSON files beside it.
    except (RuntimeError, ValueError, google.protobuf.json_format.Error, OSError) as error:
        if isinstance(error, NotImplementedError):  # another file format, not damage
            raise
        raise errors.DataError(
            f"the data set in {os.fspath(folder)} cannot be read: {error}",
            "The files seem damaged: delete the folder and prepare the set again",
        ) from None
