"""Pictures of letters: what trains and what validates."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from experiments import corpus_sets, letters
from ncap_jax.types import Dataset

TRAIN, VALIDATION = 260, 130


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch):
    """A tenth of the pictures: drawing takes its time."""
    monkeypatch.setattr(letters, "TRAIN", TRAIN)
    monkeypatch.setattr(letters, "VALIDATION", VALIDATION)


def drawn(typefaces: bool) -> Dataset:
    return letters.load(typefaces=typefaces)


@pytest.mark.parametrize("typefaces", [False, True])
def test_classes_have_as_many_pictures_each(typefaces: bool):
    found = drawn(typefaces)
    classes = 5 if typefaces else 26
    assert found.num_classes == classes
    assert found.validation_labels is not None
    for labels, size in ((found.labels, TRAIN), (found.validation_labels, VALIDATION)):
        counts = np.bincount(labels, minlength=classes)
        assert counts.sum() == size
        assert np.ptp(counts) <= 1


@pytest.mark.parametrize("typefaces", [False, True])
def test_a_seed_draws_the_same_pictures(typefaces: bool):
    again = letters.load(typefaces=typefaces)
    np.testing.assert_array_equal(again.images, drawn(typefaces).images)
    other = letters.load(typefaces=typefaces, seed=1)
    assert (other.images != again.images).any(axis=(1, 2, 3)).all()


def asked_for(monkeypatch: pytest.MonkeyPatch, *, typefaces: bool) -> list[tuple[str, str]]:
    """(letter, face) of every picture, those that train first."""
    found: list[tuple[str, str]] = []
    picture = letters._picture

    def noted(letter: str, face: str, random: np.random.Generator) -> np.ndarray:
        found.append((letter, face))
        return picture(letter, face, random)

    monkeypatch.setattr(letters, "_picture", noted)
    letters.load(typefaces=typefaces)
    return found


def test_letters_validate_in_faces_that_do_not_train(monkeypatch: pytest.MonkeyPatch):
    found = asked_for(monkeypatch, typefaces=False)
    train, validation = ({face for _, face in part} for part in (found[:TRAIN], found[TRAIN:]))
    assert not train & validation
    assert len(validation) == len(letters.FAMILIES)
    assert train | validation == {face for faces in letters.FAMILIES.values() for face in faces}


def test_typefaces_validate_on_letters_that_do_not_train(monkeypatch: pytest.MonkeyPatch):
    found = asked_for(monkeypatch, typefaces=True)
    train, validation = ({letter for letter, _ in part} for part in (found[:TRAIN], found[TRAIN:]))
    assert validation == set(letters.UNSEEN)
    assert train | validation == set(letters.LETTERS)
    assert not train & validation


def test_a_letter_stands_out_from_its_ground():
    grey = drawn(False).images.astype(float).mean(axis=-1)
    contrast = np.ptp(grey, axis=(1, 2))
    assert contrast.min() > letters._CONTRAST / 2  # thin lines are drawn half through


def test_a_face_draws_its_own_shape():
    """No font that is missing, or without letters, would be told from another."""
    faces = [face for family in letters.FAMILIES.values() for face in family]
    shapes = {letters._drawn("G", face).resize((20, 20)).tobytes() for face in faces}
    assert len(shapes) == len(faces)


def test_a_set_of_the_corpus_takes_a_part(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(letters, "TRAIN", 510)
    found = corpus_sets.load("letter_typefaces", tmp_path)
    assert found.class_names == tuple(letters.FAMILIES)
    assert found.validation_labels is not None
    assert (len(found.labels), len(found.validation_labels)) == (500, VALIDATION)
