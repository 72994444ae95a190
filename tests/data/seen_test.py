"""Weights that were trained on the images that are ranked: by name, and pixel by pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ncap_jax import data
from ncap_jax.data import seen
from ncap_jax.data.listing import Listing
from ncap_jax.types import Dataset


def some(images: np.ndarray, **fields: object) -> Dataset:
    """Two classes by turns, the last quarter for validation."""
    labels, cut = np.arange(len(images), dtype=np.int32) % 2, len(images) * 3 // 4
    return dataclasses.replace(
        Dataset(images[:cut], labels[:cut], images[cut:], labels[cut:], ("a", "b")), **fields
    )


NOISE = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("TFDS cifar10/3.0.2", "cifar10"),
        ("TFDS imagenette/full-size-v2/1.0.0", "imagenet2012"),
        ("folder cifar10", ""),
        (None, ""),
    ],
)
def test_where_images_are_from(source, expected):
    info = {} if source is None else {"source": source}
    assert seen.origin(some(NOISE, info=info)) == expected


def test_a_set_is_known_by_its_name_without_a_look_at_images():
    reason = seen.seen_by("cifar10", some(NOISE, info={"source": "TFDS cifar10/3.0.2"}), "/nowhere")
    assert reason == (
        "its weights were trained on cifar10, from which these images are: the accuracy says "
        "little about other images"
    )


def test_without_the_source_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "list_published", lambda *_: pytest.fail("read TFDS's files"))
    assert seen.seen_by("cifar10", some(NOISE), tmp_path) == ""


def test_copies_are_counted_in_both_parts(monkeypatch):
    """The source is a stand-in: two of its images train here, one validates."""
    listing = Listing("known", {}, (), shape=(32, 32, 3))
    monkeypatch.setattr(seen, "is_prepared", lambda *_: True)
    monkeypatch.setattr(seen, "list_published", lambda *_: listing)
    monkeypatch.setattr(seen, "load_dataset", lambda *_: some(NOISE))
    others = 255 - NOISE
    images = np.concatenate([NOISE[:2], others[2:7], NOISE[7:]])
    assert seen.count_copies("known", some(images)) == (3, 8)
    reason = seen.seen_by("known", some(images))
    assert "trained on known, in which 3 of the 8 images are: " in reason
    assert seen.seen_by("known", some(others)) == ""


@pytest.mark.slow  # decodes all of CIFAR-10
def test_copies_are_found_in_the_real_source(shared_data):
    tfds = shared_data / "tfds"
    original = data.load_dataset("cifar10", data_dir=tfds, max_train=40, max_validation=20)
    images = np.concatenate([NOISE[:5], np.asarray(original.images)[:3]])
    assert seen.count_copies("cifar10", some(images), tfds) == (3, 8)


def test_images_of_another_size_are_not_compared(shared_data, monkeypatch):
    monkeypatch.setattr(seen, "load_dataset", lambda *_: pytest.fail("decoded the source"))
    assert seen.count_copies("cifar10", some(NOISE[:, :8, :8]), shared_data / "tfds") == (0, 8)
