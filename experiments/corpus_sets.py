"""The data sets of the corpus: which images of which source train and validate.

The first five are as small as a first try: 500 images of the embedded pool's, 256 of the genuine
pool's, and as few to validate on. The others ask for differences of a point: 1,000 images
validate, or as many as the source has of these classes (236 to 1,050). They vary what a user's
data vary in:

    <source>-100, -500, -2000   the number of training images
    fashion_tops, fashion_rest  five classes that look alike, and five that do not
    fashion_shoes               three of them that do
    cifar_animals               six classes
    cifar_vehicles              the other four
    letter_typefaces            which family of typefaces a letter is from
    birds525-1050               two images of each of 525 species
    birds_groups                the species whose names end alike (owls, ducks, ...) as one class

The letters are drawn (`experiments.letters`); all others are photographs, or scans.

A study that leaves a set out leaves out all that share its source.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import letters
from ncap_jax import data
from ncap_jax.data import batching
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset
from ncap_jax.zoo import preprocess

# Species that a group of birds needs to be a class.
LEAST_SPECIES = 5


@dataclasses.dataclass(frozen=True)
class CorpusSet:
    """One set.

    Attributes:
        source: what it is a part of: `digits`, `letters`, a TFDS set, a folder of birds.
        config: how the source is read, and how many images are kept.
        classes: of these only, if any are given.
        grouped: whether classes are the last words of the source's class names; of letters, their
            typefaces.
        large: whether the set says itself how many images it has, whatever the pool; only
            ordinary fine-tuning is recorded then, up to the fifth epoch and at the end.
    """

    source: str
    config: DataConfig
    classes: tuple[int, ...] = ()
    grouped: bool = False
    large: bool = True


def _of(source: str, train: int, classes: tuple[int, ...] = ()) -> CorpusSet:
    """A part of a TFDS set, of the digits or of the letters."""
    return CorpusSet(source, DataConfig(max_train=train, max_validation=1000), classes)


def _first(source: str, **options: Any) -> CorpusSet:
    return CorpusSet(source, DataConfig(**options), large=False)


SETS: Mapping[str, CorpusSet] = {
    "digits": _first("digits", max_validation=500),
    "fashion_mnist": _first("fashion_mnist", max_train=500, max_validation=500),
    "cifar10": _first("cifar10", max_train=500, max_validation=500),
    "birds6": _first("birds6", validation_fraction=0.4, image_size=64),
    "birds525": _first("birds525", validation_fraction=0.25, image_size=64),
    "digits-100": _of("digits", 100),
    "digits-500": _of("digits", 500),
    "fashion_mnist-100": _of("fashion_mnist", 100),
    "fashion_mnist-500": _of("fashion_mnist", 500),
    "fashion_mnist-2000": _of("fashion_mnist", 2000),
    "fashion_tops": _of("fashion_mnist", 500, (0, 2, 3, 4, 6)),
    "fashion_rest": _of("fashion_mnist", 500, (1, 5, 7, 8, 9)),
    "fashion_shoes": _of("fashion_mnist", 500, (5, 7, 9)),
    "cifar10-100": _of("cifar10", 100),
    "cifar10-500": _of("cifar10", 500),
    "cifar10-2000": _of("cifar10", 2000),
    "cifar_animals": _of("cifar10", 500, (2, 3, 4, 5, 6, 7)),
    "cifar_vehicles": _of("cifar10", 500, (0, 1, 8, 9)),
    "birds6-100": CorpusSet(
        "birds6", DataConfig(max_train=100, validation_fraction=0.5, image_size=64)
    ),
    "birds525-1050": CorpusSet("birds525", DataConfig(validation_fraction=0.5, image_size=64)),
    "birds_groups": CorpusSet(
        "birds525", DataConfig(validation_fraction=0.5, image_size=64), grouped=True
    ),
    "letters-500": _of("letters", 500),
    "letters-2000": _of("letters", 2000),
    "letter_typefaces": dataclasses.replace(_of("letters", 500), grouped=True),
}


# How many images train on the sets that do not say how many they keep; on the first ones, by pool.
TRAINING_IMAGES: Mapping[str, int] = {
    "birds6_embedded": 365,
    "birds525-1050": 1050,
    "birds_groups": 236,
}
FIRST_TRAINING_IMAGES: Mapping[str, int] = {"embedded": 500, "genuine": 256}
BATCH = 32


def source_of(name: str) -> str:
    """What a set is a part of."""
    return SETS[name].source


def epoch_steps(task: str) -> int | None:
    """Steps of an epoch on a set as a pool sees it, by `<set>_<pool>`; None: there is no such."""
    name, _, pool = task.rpartition("_")
    if name not in SETS or pool not in FIRST_TRAINING_IMAGES:
        return None
    known = SETS[name]
    kept = known.config.max_train if known.large else FIRST_TRAINING_IMAGES[pool]
    images = TRAINING_IMAGES.get(task) or TRAINING_IMAGES.get(name) or kept
    assert images is not None
    return batching.steps_per_epoch(images, BATCH)


def load(
    name: str,
    shared: pathlib.Path,
    *,
    side: int | None = None,
    images: int | None = None,
    classes: int | None = None,
) -> Dataset:
    """One of the sets, as a pool sees it.

    Args:
        name: of the set.
        shared: folder with the sources.
        side: of the squares to which all images are brought; None: they stay as they are.
        images: at most so many train, and validate, of a set that is not `large`.
        classes: likewise; the first ones are kept.
    """
    wanted = SETS[name]
    config = dataclasses.replace(wanted.config, data_dir=str(shared / "tfds"))
    whole = dataclasses.replace(config, max_train=None, max_validation=None)
    found: str | Dataset = wanted.source
    if wanted.source == "letters":
        found = letters.load(typefaces=wanted.grouped)
    elif wanted.source.startswith("birds"):
        found = str(shared / "birds" / wanted.source)
    if wanted.classes:
        found = only(data.load_dataset(found, whole, seed=0), wanted.classes)
    elif wanted.grouped and isinstance(found, str):
        found = grouped(data.load_dataset(found, whole, seed=0))
    if not isinstance(found, str):  # how they are read is past
        config = DataConfig(max_train=config.max_train, max_validation=config.max_validation)
    found = data.load_dataset(found, config, seed=0)
    if not wanted.large:
        if classes is not None and found.num_classes > classes:
            found = only(found, range(classes))
        if images is not None:
            found = data.load_dataset(found, seed=0, max_train=images, max_validation=images)
    return found if side is None else at_side(found, side)


def only(dataset: Dataset, classes: Any) -> Dataset:
    """The images of these classes, which are renumbered in the order given."""
    assert dataset.class_names is not None
    return _relabelled(
        dataset,
        {old: new for new, old in enumerate(classes)},
        tuple(dataset.class_names[old] for old in classes),
    )


def grouped(dataset: Dataset) -> Dataset:
    """Classes whose names end in one word as one class, where there are at least five of them."""
    assert dataset.class_names is not None
    words = [name.replace("_", " ").split()[-1].title() for name in dataset.class_names]
    counts = collections.Counter(words)
    groups = sorted(word for word, number in counts.items() if number >= LEAST_SPECIES)
    numbers = {old: groups.index(word) for old, word in enumerate(words) if word in groups}
    return _relabelled(dataset, numbers, tuple(groups))


def _relabelled(dataset: Dataset, numbers: Mapping[int, int], names: tuple[str, ...]) -> Dataset:
    """The images whose label is a key of `numbers`, with its value as their label."""
    assert dataset.validation_labels is not None
    new = np.array([numbers.get(old, -1) for old in range(dataset.num_classes)], np.int32)
    train, validation = new[dataset.labels], new[dataset.validation_labels]
    return dataclasses.replace(
        dataset,
        images=np.asarray(dataset.images)[train >= 0],
        labels=train[train >= 0],
        validation_images=np.asarray(dataset.validation_images)[validation >= 0],
        validation_labels=validation[validation >= 0],
        class_names=names,
    )


def at_side(dataset: Dataset, side: int) -> Dataset:
    """The same images as RGB squares of `side` pixels."""

    def resized(images: Any) -> np.ndarray:
        pixels = preprocess.resize(jnp.asarray(np.asarray(images), jnp.float32), side)
        rounded = np.asarray(jnp.clip(jnp.round(pixels), 0, 255), np.uint8)
        return np.broadcast_to(rounded, (*rounded.shape[:-1], 3)).copy()

    return dataclasses.replace(
        dataset,
        images=resized(dataset.images),
        validation_images=resized(dataset.validation_images),
    )
