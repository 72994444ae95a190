"""Further splits: other images validate, sizes and class shares stay, nothing is lost."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncap_jax import errors
from ncap_jax.data.further_splits import further_splits
from ncap_jax.types import Dataset


def numbered(train: list[int], validation: list[int]) -> Dataset:
    """Classes with so many images in each part; the pixels of an image say which it is."""
    count = sum(train) + sum(validation)
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 1), np.uint8)
    labels = [np.repeat(np.arange(len(n)), n).astype(np.int32) for n in (train, validation)]
    cut, names = sum(train), tuple(f"class {c}" for c in range(len(train)))
    return Dataset(pixels[:cut], labels[0], pixels[cut:], labels[1], names, "numbered")


def numbers(images: object) -> list[int]:
    return np.asarray(images)[:, 0, 0, 0].tolist()


@given(
    classes=st.lists(st.tuples(st.integers(3, 12), st.integers(0, 3)), min_size=2, max_size=5),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_parts_partition_the_images_and_validation_parts_do_not_meet(classes, seed, data):
    train, validation = map(list, zip(*classes))
    validation[0] = max(1, validation[0])
    most = min(t // v for t, v in zip(train, validation) if v)
    number = data.draw(st.integers(1, most))
    whole = numbered(train, validation)
    labels = dict(zip(numbers(whole.images), whole.labels.tolist()))
    labels |= dict(zip(numbers(whole.validation_images), whole.validation_labels.tolist()))
    held = [set(numbers(whole.validation_images))]
    for split in further_splits(whole, number, seed):
        both = (split.images, split.labels), (split.validation_images, split.validation_labels)
        assert sorted(numbers(both[0][0]) + numbers(both[1][0])) == sorted(labels)
        for images, its in both:
            assert [labels[n] for n in numbers(images)] == its.tolist()
        assert np.bincount(split.labels, minlength=len(train)).tolist() == train
        assert np.bincount(both[1][1], minlength=len(train)).tolist() == validation
        held.append(set(numbers(split.validation_images)))
    assert sum(map(len, held)) == len(set.union(*held))


def test_the_same_seed_gives_the_same_splits():
    whole = numbered([9, 9], [2, 2])
    draws = [
        [numbers(split.validation_images) for split in further_splits(whole, 3, seed)]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_no_further_split():
    assert further_splits(numbered([1, 1], [1, 1]), 0) == ()


def test_too_few_images_of_a_class():
    cause = (
        "validation_splits=4, but class 'class 1' has 5 training and 2 validation images; each "
        "split needs 2 others to validate"
    )
    with pytest.raises(errors.ConfigError, match=re.escape(cause)) as refusal:
        further_splits(numbered([9, 5], [2, 2]), 3)
    assert "Use validation_splits=3 or fewer" in refusal.value.remedy
    assert len(further_splits(numbered([9, 5], [2, 2]), 2)) == 2
