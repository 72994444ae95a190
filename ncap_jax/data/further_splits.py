"""Further splits of a data set into training and validation, for few validation images.

Each further split holds out other images: of every class as many as the set's own validation part
has, drawn from those that no earlier split has held out. Everything else trains, the set's own
validation images included. So all splits have parts of equal sizes and class shares, no image
validates twice, and programs that were compiled for one split serve the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from ncap_jax import errors
from ncap_jax.data.images import is_streamed
from ncap_jax.types import Dataset


def further_splits(dataset: Dataset, number: int, seed: int = 0) -> tuple[Dataset, ...]:
    """Further splits of a data set, deterministic.

    Args:
        dataset: as `load_dataset` returns it, in memory.
        number: of splits beside its own.
        seed: of the draws.

    Returns:
        Data sets with the same fields; each has a copy of the images.

    Raises:
        ConfigError: as `check_splits`.
    """
    check_splits(dataset, number)
    if number == 0:
        return ()
    assert dataset.validation_images is not None
    assert dataset.validation_labels is not None
    held = np.bincount(dataset.validation_labels, minlength=dataset.num_classes)
    images = np.concatenate([dataset.images, dataset.validation_images])
    labels = np.concatenate([dataset.labels, dataset.validation_labels])
    return tuple(
        dataclasses.replace(
            dataset,
            images=images[~chosen],
            labels=labels[~chosen],
            validation_images=images[chosen],
            validation_labels=labels[chosen],
        )
        for chosen in _held_out(dataset.labels, len(labels), held, number, seed)
    )


def check_splits(dataset: Dataset, number: int) -> None:
    """Refuse more further splits than a data set has images for.

    Raises:
        ConfigError: the images are streamed, or a class has too few.
    """
    if number == 0:
        return
    if is_streamed(dataset.images) or is_streamed(dataset.validation_images):
        raise errors.ConfigError(
            f"validation_splits={number + 1} with streamed images",
            "Use a smaller image_size or fewer images, so that they fit in memory",
        )
    assert dataset.validation_labels is not None
    held = np.bincount(dataset.validation_labels, minlength=dataset.num_classes)
    trained = np.bincount(dataset.labels, minlength=len(held))
    most = int((trained[held > 0] // held[held > 0]).min(initial=trained.sum()))
    if most < number:
        worst = int(np.argmin(np.where(held > 0, trained // np.maximum(held, 1), trained.max())))
        name = str(worst) if dataset.class_names is None else dataset.class_names[worst]
        raise errors.ConfigError(
            f"validation_splits={number + 1}, but class {name!r} has {trained[worst]} training and "
            f"{held[worst]} validation images; each split needs {held[worst]} others to validate",
            f"Use validation_splits={most + 1} or fewer, or a smaller validation_fraction",
        )


def _held_out(
    labels: np.ndarray, total: int, held: np.ndarray, number: int, seed: int
) -> Iterator[np.ndarray]:
    """(total,) bool for each split: which images validate; the first `labels` are eligible."""
    rng = np.random.default_rng(seed)
    order = {c: rng.permutation(np.flatnonzero(labels == c)) for c in np.flatnonzero(held)}
    for split in range(number):
        chosen = np.zeros(total, bool)
        for c, places in order.items():
            chosen[places[split * held[c] : (split + 1) * held[c]]] = True
        yield chosen
