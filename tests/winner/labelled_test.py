"""The images a model is judged by, and the numbers of their classes."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from ncap_jax import data, errors
from ncap_jax.data.held_out import HeldOut
from ncap_jax.types import Dataset
from ncap_jax.winner.images import Form
from ncap_jax.winner.labelled import labelled
from tests.support.photos import first_pixels, write_class
from tests.support.small import small_digits

NAMES = ("cat", "dog", "fox")
FORM = Form((10, 12), 3)
IMAGES = np.zeros((3, 10, 12, 3), np.uint8)
OWN = "Give (images, labels) as one pair, or a folder <class>/<image>"


def pixels(found: Any) -> list[int]:
    return first_pixels([picture.read(FORM) for picture in found.pictures])


def test_a_folder_of_classes(tmp_path: pathlib.Path):
    """All of it; by the names of its folders, whose order is not the model's."""
    write_class(tmp_path / "fox", 2)
    write_class(tmp_path / "dog", 1, start=2)
    found = labelled(tmp_path, NAMES)
    assert pixels(found) == [0, 1, 2]
    assert found.labels.tolist() == [1, 2, 2]
    assert found.pictures[0].name == str(tmp_path / "dog" / "002.png")


def test_the_test_part_of_a_folder(tmp_path: pathlib.Path):
    write_class(tmp_path / "train" / "cat", 2)
    write_class(tmp_path / "val" / "cat", 1, start=2)
    with pytest.raises(errors.DataError) as caught:
        labelled(tmp_path, NAMES)
    assert caught.value.cause == f"{tmp_path} has no test part"
    assert caught.value.remedy == OWN
    write_class(tmp_path / "test" / "cat", 2, start=3)
    assert pixels(labelled(tmp_path, NAMES)) == [3, 4]


def test_a_list_of_files(tmp_path: pathlib.Path):
    write_class(tmp_path, 2)
    (tmp_path / "all.csv").write_text("path,label\n000.png,fox\n001.png,cat\n")
    found = labelled(tmp_path / "all.csv", NAMES)
    assert pixels(found) == [0, 1]
    assert found.labels.tolist() == [2, 0]


def test_a_test_part_that_was_set_aside():
    images, labels = np.arange(3, dtype=np.uint8)[:, None, None, None] + IMAGES, [2, 0, 1]
    dataset = Dataset(IMAGES, np.arange(3), test_images=images, test_labels=labels)
    for given in (dataset, HeldOut(images, np.array(labels, np.int32))):
        found = labelled(given, NAMES)
        assert pixels(found) == [0, 1, 2]
        assert found.labels.tolist() == labels


@pytest.mark.parametrize("labels", [[2, 0, 1], ["fox", "cat", "dog"], np.array([2, 0, 1], "u1")])
def test_a_pair(labels: Any):
    found = labelled((IMAGES, labels), NAMES)
    assert found.labels.tolist() == [2, 0, 1]
    assert found.labels.dtype == np.int64
    assert len(found.pictures) == 3


def test_a_pair_of_paths_and_names(tmp_path: pathlib.Path):
    write_class(tmp_path, 2)
    paths = [str(tmp_path / "000.png"), tmp_path / "001.png"]
    found = labelled((paths, ["dog", "cat"]), NAMES)
    assert pixels(found) == [0, 1]
    assert found.labels.tolist() == [1, 0]


def test_a_dataset_has_its_own_names():
    """Numbers are places among its names, which need not be all, nor in the model's order."""
    dataset = Dataset(IMAGES, np.array([0, 1, 1]), class_names=("fox", "cat"))
    assert labelled(dataset, NAMES).labels.tolist() == [2, 0, 0]
    numbers = Dataset(IMAGES, np.array([0, 1, 1]))
    assert labelled(numbers, NAMES).labels.tolist() == [0, 1, 1]


def test_a_dataset_that_was_trained_on_is_refused():
    with pytest.raises(errors.DataError) as caught:
        labelled(small_digits(), NAMES)
    assert caught.value.cause == "the data set small digits has no test part"
    assert caught.value.remedy == OWN


@pytest.mark.parametrize(
    ("dataset", "cause", "remedy"),
    [
        (
            (IMAGES, ["cat", "owl", "cow"]),
            "the data has 2 classes that the model does not know: 'cow', 'owl'",
            "Leave these images out, or rename the classes; the model knows 'cat', 'dog', 'fox'",
        ),
        (
            Dataset(IMAGES, np.zeros(3, int), class_names=("owl", "cat")),
            "the data has a class that the model does not know: 'owl'",
            "Leave these images out, or rename the classes; the model knows 'cat', 'dog', 'fox'",
        ),
        ((IMAGES, [0, 3, 1]), "labels contain 3", "Give class numbers from 0 to 2"),
        ((IMAGES, [0, -1, 1]), "labels contain -1", "Give class numbers from 0 to 2"),
        ((IMAGES, [0, 1]), "there are 3 images but 2 labels", "Give one label per image"),
        (
            (IMAGES, [0.5, 1, 2]),
            "labels have shape (3,) and type float64",
            "Give one class number or class name per image",
        ),
        (
            (IMAGES, np.eye(3, dtype=int)),
            "labels have shape (3, 3) and type int64",
            "Give one class number or class name per image",
        ),
    ],
)
def test_what_a_model_cannot_be_judged_by(dataset: Any, cause: str, remedy: str):
    with pytest.raises(errors.DataError) as caught:
        labelled(dataset, NAMES)
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


@pytest.mark.slow
def test_a_published_set(shared_data: pathlib.Path):
    """Its test part, with the pixels that the data stage has."""
    folder = str(shared_data / "tfds")
    images, labels = data.load_test_split("fashion_mnist", data_dir=folder)
    names = data.load_dataset("fashion_mnist", data_dir=folder, max_train=100).class_names
    assert names is not None
    found = labelled("fashion_mnist", names, folder)
    assert np.array_equal(found.labels, labels)
    for index in (0, len(labels) - 1):
        assert np.array_equal(found.pictures[index].read(Form((28, 28), 1)), images[index])
