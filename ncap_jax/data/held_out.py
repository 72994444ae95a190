"""The test part: images that no ranking sees, and on which only the finished winner is tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.data.images import Images
from ncap_jax.data.labels import labels_only_in, map_labels

SHOWN = 5  # classes that a message names


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A test part. Unpacks into images and labels.

    Attributes:
        images: (n, height, width, channels) uint8 of the shape that the training images have, or
            `ncap_jax.data.images.EncodedImages`.
        labels: (n,) int32, numbered as the training part's.
        names: of the images, where they have any: paths or record numbers.
        info: what was done: `skipped` and `converted`, as in `Dataset.info`.
    """

    images: Images
    labels: np.ndarray
    names: tuple[str, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images, self.labels))

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.images.shape[1:]))
        return f"HeldOut({len(self.labels)} images of {shape})"


def number_test_labels(
    train: Any, test: Any, class_names: Sequence[str] | None, *, remap: bool
) -> np.ndarray:
    """The labels of a test part with the numbers that training gives its classes.

    Args:
        train: labels of the training part, in any form that `map_labels` takes.
        test: labels of the test part, in the same form.
        class_names: K names in label order, or None.
        remap: see `map_labels`.

    Returns:
        (n,) int32.

    Raises:
        DataError: the test part has a class that the training part lacks, by name; or labels that
            cannot be used.
    """
    unknown = labels_only_in(test, train, class_names)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        classes = "a class" if len(unknown) == 1 else f"{len(unknown)} classes"
        raise errors.DataError(
            f"the test part has {classes} that the training part lacks: "
            f"{', '.join(map(repr, unknown[:SHOWN]))}{more}",
            "Remove these images from the test part, or add such images to the training part",
        )
    (_, numbers), _, _ = map_labels([train, test], class_names, remap=remap)
    return numbers
