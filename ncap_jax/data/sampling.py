"""Which samples of a data set train and which validate, decided from labels alone.

No image is touched here: the caller takes the chosen ones from an array or from files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.labels import check_parts, map_labels
from ncap_jax.data.split import stratified_split, stratified_subset
from ncap_jax.options import DataConfig


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one part.

    Attributes:
        source: number of the given part that holds their images: 0 training, 1 validation.
        indices: (n,) which images of that part, ascending.
        labels: (n,) int32 in 0..K-1.
    """

    source: int
    indices: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Choice:
    """What training and validation consist of.

    Attributes:
        train: the training part.
        validation: the validation part.
        class_names: K names in label order.
        info: what was done, for `Dataset.info`.
    """

    train: Samples
    validation: Samples
    class_names: tuple[str, ...]
    info: dict[str, Any]


def choose_samples(
    labels: Sequence[Any],
    class_names: Sequence[str] | None,
    config: DataConfig,
    *,
    seed: int,
    info: Mapping[str, Any],
) -> Choice:
    """Map labels to 0..K-1, split validation off where there is none, draw subsets.

    Args:
        labels: of the training part, and of the validation part if there is one, in any form
            that `map_labels` takes.
        class_names: K names in label order, or None.
        config: the options of reading, already checked.
        seed: of the split and of the subsets.
        info: what is known already; `label_mapping`, `validation`, `subset_of` and
            `classes_without_validation` are added where they apply.

    Raises:
        DataError: labels that cannot be used.
        ConfigError: `max_train` is less than the number of classes, or no split is possible.
    """
    mapped, names, notes = map_labels(labels, class_names, remap=config.remap_labels)
    notes = {**info, **notes}
    if config.max_train is not None and config.max_train < len(names):
        raise errors.ConfigError(
            f"max_train={config.max_train} is less than the number of classes, {len(names)}",
            "Keep at least one training sample of each class",
        )
    if len(mapped) == 1:
        (train, validation), notes["validation"] = _split(mapped[0], config, seed)
    else:
        train, validation = (
            Samples(number, np.arange(len(part)), part) for number, part in enumerate(mapped)
        )
        notes.setdefault("validation", "given")
    sizes = {"training": len(train.labels), "validation": len(validation.labels)}
    train = _at_most(train, config.max_train, seed)
    validation = _at_most(validation, config.max_validation, seed)
    left = {"training": len(train.labels), "validation": len(validation.labels)}
    if cut := {part: size for part, size in sizes.items() if left[part] < size}:
        notes["subset_of"] = {**notes.get("subset_of", {}), **cut}
    notes.pop("classes_without_validation", None)
    notes.update(check_parts([train.labels, validation.labels], names))
    return Choice(train, validation, names, notes)


def _split(
    labels: np.ndarray, config: DataConfig, seed: int
) -> tuple[tuple[Samples, Samples], str]:
    """Training and validation out of one part, and a note on it."""
    # One sample of every class that has two, whatever the fraction: a class that nobody validates
    # would go unnoticed.
    wanted = round(config.validation_fraction * len(labels))
    size = max(wanted, int(np.count_nonzero(np.bincount(labels) > 1)))
    kept, split_off = (
        Samples(0, indices, labels[indices]) for indices in stratified_split(labels, size, seed)
    )
    note = f"{size} of {len(labels)} training samples, stratified, seed {seed}"
    return (kept, split_off), note


def _at_most(samples: Samples, limit: int | None, seed: int) -> Samples:
    """A stratified subset of at most `limit` samples; None: all of them."""
    if limit is None or limit >= len(samples.labels):
        return samples
    keep = stratified_subset(samples.labels, limit, seed)
    return Samples(samples.source, samples.indices[keep], samples.labels[keep])
