"""The data sets of the corpus: which images, under which labels."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from experiments import build_corpus, corpus_sets
from ncap_jax import data
from ncap_jax.types import Dataset

NAMES = ("Barn_Owl", "Carmine_Bee_Eater", "Snowy Owl", "EURASIAN EAGLE OWL")


def grey_set() -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4, dtype=np.int32), 10)
    images = rng.integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
    return data.load_dataset(Dataset(images, labels, class_names=NAMES, name="grey"))


def test_classes_are_renumbered_in_the_order_given():
    whole = grey_set()
    few = corpus_sets.only(whole, (2, 0))
    assert few.class_names == ("Snowy Owl", "Barn_Owl")
    assert len(few.labels) + len(few.validation_labels) == 20
    for number, old in enumerate((2, 0)):
        np.testing.assert_array_equal(
            few.images[few.labels == number], whole.images[whole.labels == old]
        )
        np.testing.assert_array_equal(
            few.validation_images[few.validation_labels == number],
            whole.validation_images[whole.validation_labels == old],
        )


def test_an_epoch_has_the_steps_of_its_images():
    names = ["digits_embedded", "digits-100_embedded", "digits_genuine", "birds525-1050_genuine"]
    assert list(map(corpus_sets.epoch_steps, names)) == [16, 4, 8, 33]
    assert corpus_sets.epoch_steps("nas_cells_digits") is None


def test_species_of_one_kind_are_one_class(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus_sets, "LEAST_SPECIES", 3)
    whole = grey_set()
    owls = corpus_sets.grouped(whole)
    assert owls.class_names == ("Owl",)
    np.testing.assert_array_equal(owls.images, whole.images[whole.labels != 1])
    assert set(owls.labels) == set(owls.validation_labels) == {0}


def test_images_take_one_form():
    """Of pixels and channels."""
    whole = grey_set()
    square = corpus_sets.at_side(whole, 12)
    assert square.images.shape[1:] == square.validation_images.shape[1:] == (12, 12, 3)
    assert square.images.dtype == np.uint8
    # Twice the side, bilinear with half-pixel centres: corners stay, the channels are equal.
    np.testing.assert_array_equal(square.images[:, 0, 0, 0], whole.images[:, 0, 0, 0])
    np.testing.assert_array_equal(square.images[..., 0], square.images[..., 2])


def test_a_small_set_is_cut_to_its_pool_and_a_large_one_is_not(tmp_path: pathlib.Path):
    small = corpus_sets.load("digits", tmp_path, side=12, images=40, classes=4)
    assert len(small.labels) == len(small.validation_labels) == 40
    assert small.class_names == ("0", "1", "2", "3")
    large = corpus_sets.load("digits-100", tmp_path, images=40, classes=4)
    assert (len(large.labels), len(large.validation_labels)) == (100, 1000)
    assert large.num_classes == 10


def test_what_suits_a_pool():
    large = build_corpus.sets_of(["birds6", "large"], "embedded")
    assert large[:2] == ["birds6", "digits-100"]
    sources = {corpus_sets.source_of(name) for name in large[1:]}
    # Pretrained on cifar10; 525 species are too many, their groups are not.
    assert sources == {"digits", "fashion_mnist", "birds6", "birds525", "letters"}
    assert "birds525-1050" not in large
    every = {name for name, each in corpus_sets.SETS.items() if each.large}
    assert set(build_corpus.sets_of(["large"], "genuine")) == every


# Fewer than a thousand validate: the source has no more of these classes.
FEW = {"fashion_shoes": 600, "cifar_vehicles": 800, "birds6-100": 304, "birds_groups": 236}


@pytest.mark.slow
def test_large_sets_have_a_thousand_images_to_judge_by(shared_data: pathlib.Path):
    for name, each in corpus_sets.SETS.items():
        if each.large:
            found = corpus_sets.load(name, shared_data)
            assert found.validation_labels is not None
            validate = len(found.validation_labels)
            assert validate == FEW[name] if name in FEW else validate >= 1000
            if each.config.max_train is not None:
                assert len(found.labels) == each.config.max_train
    tops = corpus_sets.load("fashion_tops", shared_data)
    assert tops.class_names == ("T-shirt/top", "Pullover", "Dress", "Coat", "Shirt")
