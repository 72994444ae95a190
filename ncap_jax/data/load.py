"""`load_dataset`: from whatever names a data set to a checked `Dataset`."""

from __future__ import annotations

import os

from ncap_jax import errors
from ncap_jax.data.checks import check_dataset
from ncap_jax.data.digits import load_digits
from ncap_jax.data.published import load_published
from ncap_jax.types import Dataset


def load_dataset(
    source: str | os.PathLike[str] | Dataset = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    max_train: int | None = None,
    max_validation: int | None = None,
    remap_labels: bool = False,
) -> Dataset:
    """Load a data set, check it, and make sure that it has a validation part.

    Args:
        source: `digits` (embedded), the name of a TFDS set prepared in `data_dir`, or a
            `Dataset` of arrays.
        data_dir: where TFDS sets were prepared; None is TFDS's own default.
        seed: of the validation split and of the subsets.
        validation_fraction: share of the training part split off for validation, stratified,
            where the set has no validation part.
        max_train: at most so many training samples, a stratified subset.
        max_validation: the same for validation.
        remap_labels: number integer classes that have gaps, instead of refusing them.

    Returns:
        images (n, h, w, 1 or 3) uint8, labels (n,) int32 in 0..K-1, a validation part of the
        same form, K class names, and in `info` what was done.

    Raises:
        DataError: unknown source, or images or labels that cannot be used.
        ConfigError: an option that cannot work.
    """
    return check_dataset(
        _read(source, data_dir),
        seed=seed,
        validation_fraction=validation_fraction,
        max_train=max_train,
        max_validation=max_validation,
        remap_labels=remap_labels,
    )


def _read(
    source: str | os.PathLike[str] | Dataset, data_dir: str | os.PathLike[str] | None
) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if source == "digits":
        return load_digits()
    if isinstance(source, str) and os.sep not in source:
        return load_published(source, data_dir)
    raise errors.DataError(f"{source} is not a data set", "Give a name or a Dataset of arrays")
