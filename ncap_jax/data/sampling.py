"""Which samples of a data set train, validate and test, decided from labels alone.

No image is touched here: the caller takes the chosen ones from an array or from files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.labels import check_parts, map_labels
from ncap_jax.data.split import split_for_test, stratified_split, stratified_subset
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

    def take(self, places: np.ndarray) -> Samples:
        """Some of these samples."""
        return Samples(self.source, self.indices[places], self.labels[places])


@dataclass(frozen=True, eq=False)
class Choice:
    """What training and validation consist of.

    Attributes:
        train: the training part.
        validation: the validation part.
        class_names: K names in label order.
        info: what was done, for `Dataset.info`.
        test: what `test_fraction` set aside of the training part; None: nothing.
    """

    train: Samples
    validation: Samples
    class_names: tuple[str, ...]
    info: dict[str, Any]
    test: Samples | None = None


def choose_samples(
    labels: Sequence[Any],
    class_names: Sequence[str] | None,
    config: DataConfig,
    *,
    seed: int,
    info: Mapping[str, Any],
    num_test: int = 0,
) -> Choice:
    """Map labels to 0..K-1, split off test and validation where there are none, draw subsets.

    Args:
        labels: of the training part, and of the validation part if there is one, in any form
            that `map_labels` takes.
        class_names: K names in label order, or None.
        config: the options of reading, already checked.
        seed: of the splits and of the subsets.
        info: what is known already; `label_mapping`, `test`, `validation`, `subset_of` and
            `classes_without_validation` are added where they apply.
        num_test: number of images in the set's own test part; where it has one, none is split off.

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
    train, *given = (Samples(k, np.arange(len(part)), part) for k, part in enumerate(mapped))
    test = None
    if num_test:
        notes["test"] = f"{num_test} images, set aside"
    elif config.test_fraction is not None:
        (train, test), notes["test"] = _split_test(train, config.test_fraction, given, seed)
    if given:
        validation = given[0]
        notes.setdefault("validation", "given")
    else:
        (train, validation), notes["validation"] = _split(train, config, seed)
    sizes = {"training": len(train.labels), "validation": len(validation.labels)}
    train = _at_most(train, config.max_train, seed)
    validation = _at_most(validation, config.max_validation, seed)
    left = {"training": len(train.labels), "validation": len(validation.labels)}
    if cut := {part: size for part, size in sizes.items() if left[part] < size}:
        notes["subset_of"] = {**notes.get("subset_of", {}), **cut}
    notes.pop("classes_without_validation", None)
    notes.update(check_parts([train.labels, validation.labels], names))
    return Choice(train, validation, names, notes, test)


def _split_test(
    samples: Samples, fraction: float, validation: Sequence[Samples], seed: int
) -> tuple[tuple[Samples, Samples], str]:
    """Training and test out of one part, and a note on it."""
    # Every class keeps a sample to train on, and one to validate on where that is still to split.
    kept, test = split_for_test(samples.labels, fraction, seed, leave=1 if validation else 2)
    note = f"{len(test)} of {len(samples.labels)} training samples, stratified, seed {seed}"
    return (samples.take(kept), samples.take(test)), note


def _split(samples: Samples, config: DataConfig, seed: int) -> tuple[tuple[Samples, Samples], str]:
    """Training and validation out of one part, and a note on it."""
    # One sample of every class that has two, whatever the fraction: a class that nobody validates
    # would go unnoticed.
    labels = samples.labels
    wanted = round(config.validation_fraction * len(labels))
    size = max(wanted, int(np.count_nonzero(np.bincount(labels) > 1)))
    kept, split_off = (samples.take(places) for places in stratified_split(labels, size, seed))
    note = f"{size} of {len(labels)} training samples, stratified, seed {seed}"
    return (kept, split_off), note


def _at_most(samples: Samples, limit: int | None, seed: int) -> Samples:
    """A stratified subset of at most `limit` samples; None: all of them."""
    if limit is None or limit >= len(samples.labels):
        return samples
    return samples.take(stratified_subset(samples.labels, limit, seed))
