"""A small data set of image files, held in memory and streamed."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from ncap_jax.data import load_dataset
from ncap_jax.types import Dataset
from tests.support.photos import write_class


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """50 real digits as JPEG files of different sizes, in ten classes."""
    root = tmp_path_factory.mktemp("digits")
    digits = datasets.load_digits()
    for number in range(50):
        path = root / str(digits.target[number]) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray((digits.images[number] * 15).astype(np.uint8))
        image.resize((16 + number % 5, 20)).save(path)
    return root


@pytest.fixture(scope="session")
def held(digit_files: pathlib.Path) -> Dataset:
    """The digits' files as arrays."""
    return load_dataset(digit_files, stream=False)


@pytest.fixture(scope="session")
def streamed(digit_files: pathlib.Path) -> Dataset:
    """The digits' files, still encoded."""
    return load_dataset(digit_files, stream=True)


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes, 12 and 8 images of 12×10, each image known by its first pixel."""
    write_class(tmp_path / "photos" / "cat", 12)
    write_class(tmp_path / "photos" / "dog", 8, start=100)
    return tmp_path / "photos"
