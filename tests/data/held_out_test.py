"""The test part: numbered as training numbers its classes, and no class that training lacks."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.held_out import HeldOut, number_test_labels

REMEDY = "Remove these images from the test part, or add such images to the training part."


def number(train, test, names=None, *, remap=False):
    return number_test_labels(train, test, names, remap=remap).tolist()


def test_labels_have_the_numbers_of_training():
    assert number(["dog", "cat", "owl"], ["owl", "cat"]) == [2, 0]
    assert number([1, 0, 2], [2, 2]) == [2, 2]
    assert number([5, 9, 7], [9, 5], remap=True) == [2, 0]
    assert number(np.eye(3), np.eye(3)[[2]]) == [2]
    assert number_test_labels(["a", "b"], ["b"], None, remap=False).dtype == np.int32


@pytest.mark.parametrize(
    ("train", "test", "names", "what"),
    [
        (
            ["cat", "dog"],
            ["cat", "owl"],
            ("cat", "dog"),
            "a class that the training part lacks: 'owl'",
        ),
        ([0, 1], [1, 2], ("cat", "dog"), "a class that the training part lacks: '2'"),
        ([0, 1], [-1, 7], None, "2 classes that the training part lacks: '-1', '7'"),
        (
            ["a", "b"],
            list("abcdefghi"),
            None,
            "7 classes that the training part lacks: 'c', 'd', 'e', 'f', 'g' and 2 more",
        ),
    ],
)
def test_a_class_that_training_lacks_is_refused_by_name(train, test, names, what):
    for remap in (False, True):
        with pytest.raises(errors.DataError) as refused:
            number(train, test, names, remap=remap)
        assert str(refused.value) == f"the test part has {what}. {REMEDY}"


def test_labels_of_another_kind_are_refused():
    with pytest.raises(errors.DataError) as refused:
        number(["cat", "dog"], [0, 1])
    assert str(refused.value) == (
        "the parts have labels of different kinds: integer, string. Give all labels in one form."
    )


def test_a_test_part_unpacks_and_is_printed_short():
    part = HeldOut(np.zeros((2, 4, 5, 1), np.uint8), np.array([0, 1]))
    images, labels = part
    assert images is part.images
    assert labels is part.labels
    assert repr(part) == "HeldOut(2 images of 4 × 5 × 1)"
