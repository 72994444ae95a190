"""What a caller may give as a data set, and how the rest is refused."""

from __future__ import annotations

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import pairs
from ncap_jax.options import RankConfig
from ncap_jax.types import Dataset

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
LABELS = np.arange(4) % 2
DATASET = Dataset(IMAGES, LABELS)


class Samples:
    """What a PyTorch data set has."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return IMAGES[index], LABELS[index]


class DataFrame:
    """What a table has: a shape and columns, but no one type."""

    shape = (4, 2)

    def __iter__(self):
        return iter(["path", "label"])


@pytest.mark.parametrize("source", ["digits", pathlib.Path("photos"), DATASET])
def test_names_paths_and_data_sets_stay(source):
    assert pairs.as_source(source) is source


@pytest.mark.parametrize(
    "source",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (jnp.asarray(IMAGES), LABELS.tolist()),
        (IMAGES.tolist(), np.eye(2)[LABELS]),
        (list(IMAGES), ["cat", "dog", "cat", "dog"]),
        ([IMAGES[0], IMAGES[1]], [[0, 1], [1, 0]]),  # two images, one-hot: not two pairs
    ],
)
def test_pairs_become_data_sets(source):
    found = pairs.as_source(source)
    assert isinstance(found, Dataset)
    assert found.images is source[0]
    assert found.labels is source[1]
    assert (found.name, found.validation_images) == ("arrays", None)


@pytest.mark.parametrize(
    ("source", "cause", "remedy"),
    [
        (None, "None is not a data set", pairs.FORMS),
        (3, "an int is not a data set", pairs.FORMS),
        (b"digits", "a bytes is not a data set", pairs.COLLECT),
        (RankConfig(), "a RankConfig is not a data set", pairs.FORMS),
        (IMAGES, "an array of shape (4, 8, 8, 3) has no labels", pairs.PAIR),
        (jnp.zeros((2, 4)), "an array of shape (2, 4) has no labels", pairs.PAIR),
        ({"images": IMAGES, "labels": LABELS}, "a dict is not a data set", pairs.COLLECT),
        ((x for x in IMAGES), "a generator is not a data set", pairs.COLLECT),
        (Samples(), "a Samples is not a data set", pairs.COLLECT),
        (DataFrame(), "a DataFrame is not a data set", pairs.COLLECT),
        ((), "a tuple of 0 is not a pair of images and labels", pairs.PARTS),
        ([IMAGES] * 3, "a list of 3 is not a pair of images and labels", pairs.PARTS),
        ((IMAGES, LABELS) * 2, "a tuple of 4 is not a pair of images and labels", pairs.PARTS),
        (("train", "val"), "a tuple of 2 is not a pair of images and labels", pairs.PARTS),
        ((IMAGES, None), "a tuple of 2 is not a pair of images and labels", pairs.PARTS),
        (
            ((IMAGES, LABELS), (IMAGES, LABELS)),
            "a tuple of 2 is not a pair of images and labels",
            pairs.PARTS,
        ),
    ],
)
def test_the_rest_is_refused_by_name(source, cause, remedy):
    with pytest.raises(errors.DataError) as caught:
        pairs.as_source(source)
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


def test_two_arrays_in_a_row_are_no_pair():
    for images, labels in ((IMAGES, LABELS), (list(IMAGES), LABELS.tolist())):
        with pytest.raises(errors.DataError) as caught:
            pairs.refuse_apart(images, labels)
        assert caught.value.cause == "images and labels are given as two arguments"
        assert caught.value.remedy == "Give (images, labels) as one pair"


@pytest.mark.parametrize("dataset", ["digits", DATASET, (IMAGES, LABELS)])
@pytest.mark.parametrize("config", [None, RankConfig(), {"epochs": 1}, "probe"])
def test_what_is_no_array_is_left_to_others(dataset, config):
    pairs.refuse_apart(dataset, config)
