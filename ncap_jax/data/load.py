"""`load_dataset`: from whatever names a data set to a checked `Dataset`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.checks import check_dataset
from ncap_jax.data.digits import load_digits
from ncap_jax.data.ingest import ingest, ingest_test
from ncap_jax.data.listing import Listing, list_csv, list_folder
from ncap_jax.data.published import known_names, list_published
from ncap_jax.types import Dataset

Source = str | os.PathLike[str] | Dataset


def load_dataset(
    source: Source = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    max_train: int | None = None,
    max_validation: int | None = None,
    remap_labels: bool = False,
    image_size: int | None = None,
    skip_broken: bool = False,
    stream: bool | None = None,
) -> Dataset:
    """Load a data set, check it, and make sure that it has a validation part.

    Args:
        source: `digits` (embedded); the name of a TFDS set prepared in `data_dir`; an image
            folder, `train/<class>/<image>` or `<class>/<image>`; a CSV file of path,label; or
            a `Dataset` of arrays. A path is told from a name by a separator in it or by
            lying there.
        data_dir: where TFDS sets were prepared; None is TFDS's own default.
        seed: of the validation split and of the subsets.
        validation_fraction: share of the training part split off for validation, stratified,
            where the set has no validation part.
        max_train: at most so many training samples, a stratified subset.
        max_validation: the same for validation.
        remap_labels: number integer classes that have gaps, instead of refusing them.
        image_size: side in pixels of the squares at which files are stored; None keeps one
            common size, else takes the median of the short sides, 256 at most. Models resize
            to their own input from there.
        skip_broken: leave broken images out and record them, instead of stopping.
        stream: decode images whenever they are needed, instead of holding them in memory; None
            does so beyond 2 GiB.

    Returns:
        images (n, h, w, 1 or 3) uint8, labels (n,) int32 in 0..K-1, a validation part of the
        same form, K class names, and in `info` what was done. Images that are streamed are an
        `ncap_jax.data.images.ImageStore`.

    Raises:
        DataError: unknown source, or images or labels that cannot be used.
        ConfigError: an option that cannot work.
    """
    checks: dict[str, Any] = {
        "seed": seed,
        "validation_fraction": validation_fraction,
        "max_train": max_train,
        "max_validation": max_validation,
        "remap_labels": remap_labels,
    }
    if isinstance(source, Dataset) or source == "digits":
        if image_size is not None or stream:
            raise errors.ConfigError(
                f"{'image_size' if image_size is not None else 'stream'} was given with a data "
                "set that is in memory already",
                "Leave it out: models resize the images to their own input",
            )
        return check_dataset(source if isinstance(source, Dataset) else load_digits(), **checks)
    return ingest(
        _list(source, data_dir),
        image_size=image_size,
        skip_broken=skip_broken,
        stream=stream,
        **checks,
    )


def load_test_split(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    skip_broken: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The test part of a data set, for studies; selection never calls this.

    Args:
        source: the name of a TFDS set, an image folder or a CSV file, as for `load_dataset`.
        data_dir: as for `load_dataset`.
        image_size: as for `load_dataset`; the default gives the size of the training images.
        skip_broken: as for `load_dataset`.

    Returns:
        images (n, h, w, c) uint8 and labels (n,) int32, numbered as the training part's.

    Raises:
        DataError: as for `load_dataset`, or there is no test part.
    """
    if source == "digits":
        raise errors.DataError(
            "digits has no test part", "Its validation part has 1,297 samples; use that"
        )
    listing = _list(source, data_dir, ("train", "test"))
    return ingest_test(listing, image_size=image_size, skip_broken=skip_broken)


def _list(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None,
    parts: tuple[str, ...] = ("train", "validation"),
) -> Listing:
    """Names of TFDS sets come first: a folder of such a name is reached as ./name."""
    text = os.fspath(source)
    if text.lower().endswith(".csv"):
        return list_csv(source)
    is_path = not isinstance(source, str) or os.sep in text
    if is_path or (os.path.isdir(text) and text not in known_names(data_dir)):
        return list_folder(source)
    return list_published(text, data_dir, parts)
