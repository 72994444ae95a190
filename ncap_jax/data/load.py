"""From whatever names a data set to a checked `Dataset`, and to the test part set aside."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.checks import check_dataset, check_test_part
from ncap_jax.data.digits import load_digits
from ncap_jax.data.encoded import printable
from ncap_jax.data.held_out import HeldOut
from ncap_jax.data.ingest import ingest, ingest_test
from ncap_jax.data.listing import Listing, list_csv, list_folder
from ncap_jax.data.pairs import DataSource, NameOrPath, as_source, refuse_apart
from ncap_jax.data.published import known_names, list_published
from ncap_jax.options import DataConfig, Recipe, check, check_value, options_of, shown
from ncap_jax.types import Dataset

SEED = next(option for option in options_of(Recipe) if option.name == "seed")


def load_dataset(
    source: DataSource = "digits",
    config: DataConfig | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Load a data set, check it, and make sure that it has a validation part.

    Args:
        source: `digits` (embedded); the name of a TFDS set prepared in `data_dir`; an image
            folder, `train/<class>/<image>` or `<class>/<image>`; a CSV file of path,label; a
            pair (images, labels) of anything that `np.asarray` takes, images (n, h, w) or
            (n, h, w, 1 or 3), labels (n,) or one-hot (n, K); or a `Dataset` of such arrays.
            Text is a path if it contains a separator, begins with `.` or `~`, or if something
            lies there and no TFDS set has that name.
        config: how the set is read; None: `DataConfig()`.
        seed: of the splits and of the subsets.
        **options: single options of `ncap_jax.DataConfig` by keyword, such as `max_train=500`;
            they override those of `config`.

    Returns:
        images (n, h, w, 1 or 3) uint8, labels (n,) int32 in 0..K-1, a validation part of the
        same form, K class names, and in `info` what was done. Streamed images are
        `ncap_jax.data.images.EncodedImages`. A test part is not among them (`load_test_part`).

    Raises:
        DataError: unknown source, or images or labels that cannot be used.
        ConfigError: an option that is unknown or cannot work.
    """
    refuse_apart(source, config)
    config = _resolve(config, options, "seed")
    check_value(SEED, seed)
    source = as_source(source)
    if isinstance(source, Dataset):
        return _load_arrays(source, config, seed)
    if source == "digits":
        return _load_arrays(load_digits(), config, seed)
    return ingest(_list(source, config, ("train", "validation")), config, seed=seed)


def load_test_part(
    source: DataSource, config: DataConfig | None = None, *, seed: int = 0, **options: Any
) -> HeldOut | None:
    """The test part that `load_dataset` leaves out; no ranking calls this.

    It is the source's own: the folder `test` beside `train`, the rows of a CSV file whose split is
    test, the TFDS split named test, `Dataset.test_images`. Where there is none, `test_fraction`
    sets a part of the training images aside, the same for equal sources, options and seeds.

    Args:
        source: as for `load_dataset`.
        config: as for `load_dataset`; `max_train` and `max_validation` do not cut the test part.
        seed: of the splits, as for `load_dataset`.
        **options: as for `load_dataset`.

    Returns:
        Images of the size, and labels with the numbers, that the training part has; or None.

    Raises:
        DataError: as for `load_dataset`, or a class that the training part lacks, by name.
        ConfigError: an option that is unknown or cannot work.
    """
    refuse_apart(source, config)
    config = _resolve(config, options, "seed")
    check_value(SEED, seed)
    source = as_source(source)
    if source == "digits":
        source = load_digits()
    if isinstance(source, Dataset):
        _refuse_for_arrays(source, config)
        return check_test_part(source, config, seed=seed)
    return ingest_test(_list(source, config, ("train", "validation", "test")), config, seed=seed)


def load_test_split(
    source: DataSource, config: DataConfig | None = None, *, seed: int = 0, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The test part of a data set as arrays, for studies; see `load_test_part`.

    Returns:
        images (n, h, w, c) uint8 and labels (n,) int32.

    Raises:
        DataError: as for `load_test_part`, or the set has no test part.
        ConfigError: an option that is unknown or cannot work.
    """
    found = load_test_part(source, config, seed=seed, **{**options, "stream": False})
    if found is None:
        name = printable(source) if isinstance(source, str | os.PathLike) else "the data set"
        raise errors.DataError(
            f"{name} has no test part",
            "Add one named test, or set some images aside with test_fraction=0.2",
        )
    return np.asarray(found.images), found.labels


def _resolve(config: DataConfig | None, options: Mapping[str, Any], *others: str) -> DataConfig:
    """The options that hold, checked; `others` are what else could have been meant."""
    if config is None:
        config = DataConfig()
    if not isinstance(config, DataConfig):
        raise errors.ConfigError(
            f"config={shown(config)} is not a DataConfig",
            "Give ncap_jax.DataConfig(...), or single options by keyword",
        )
    known = {field.name for field in dataclasses.fields(DataConfig)}
    for name in options:
        if name not in known:
            raise errors.ConfigError(*errors.unknown_name("option", name, {*known, *others}))
    config = dataclasses.replace(config, **options)
    check(config)
    return config


def _load_arrays(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    _refuse_for_arrays(dataset, config)
    return check_dataset(dataset, config, seed=seed)


def _refuse_for_arrays(dataset: Dataset, config: DataConfig) -> None:
    given = "image_size" if config.image_size is not None else "stream" if config.stream else ""
    if given:
        raise errors.ConfigError(
            f"{given} does not apply to {dataset.name}, whose images are in memory already",
            "Leave it out: models resize the images to their own input",
        )


def _list(source: NameOrPath, config: DataConfig, parts: tuple[str, ...]) -> Listing:
    """List a source. Names of TFDS sets come first; write ./name for a folder of that name."""
    path = os.path.expanduser(source)
    if path.lower().endswith(".csv"):
        return list_csv(path)
    is_path = not isinstance(source, str) or _looks_like_a_path(source)
    if is_path or (os.path.exists(path) and source not in known_names(config.data_dir)):
        return list_folder(path)
    return list_published(path, config.data_dir, parts)


def list_source(source: NameOrPath, parts: tuple[str, ...], data_dir: str | None = None) -> Listing:
    """The images of a name or path, of which nothing is decoded.

    Args:
        source: the name of a TFDS set, an image folder or a CSV file, as for `load_dataset`.
        parts: that are wanted of a TFDS set; folders and files are listed with all of theirs.
        data_dir: of TFDS sets.

    Raises:
        DataError: there is nothing of that name, or it cannot be read.
    """
    return _list(source, _resolve(None, {"data_dir": data_dir}), parts)


def _looks_like_a_path(text: str) -> bool:
    return text.startswith((".", "~")) or os.sep in text or "/" in text
