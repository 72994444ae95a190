"""Whatever a user calls images becomes pixels as the data stage makes them."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncap_jax import data, errors
from ncap_jax.data.decode import BrokenImageError
from ncap_jax.data.encoded import Files, ImageStore
from ncap_jax.winner import images
from ncap_jax.winner.images import Form
from tests.support import hostile

# Pillow warns of what is broken: `Winner` silences it.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
FORM = Form((16, 16), 3)
FORMS = "Give paths, folders, arrays (n, height, width, channels), or images of Pillow's"


def pixels(given: Any, form: Form = FORM) -> list[np.ndarray]:
    return [np.asarray(each) for each in images.decoded(images.collect(given), form)]


def names(given: Any) -> list[str]:
    return [picture.name for picture in images.collect(given)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data set of two classes: files that no data set should hold, and two photographs."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("hostile", "sound"):
        (root / name).mkdir()
    for width in (48, 40):
        hostile.photo(width).save(root / "sound" / f"{width}.png")
    hostile.write(root / "hostile")
    return root


def test_files_become_the_pixels_that_training_sees(photos: pathlib.Path):
    """Bit by bit, for files of all kinds, at the size at which the set was stored."""
    dataset = data.load_dataset(photos, skip_broken=True, validation_fraction=0.5)
    trained = {each.tobytes() for each in (*dataset.images, *dataset.validation_images)}
    given = images.collect(photos)
    results = images.decoded(given, Form(dataset.images.shape[1:3], dataset.images.shape[3]))
    found = {picture.name: result for picture, result in zip(given, results)}
    assert {r.tobytes() for r in found.values() if isinstance(r, np.ndarray)} == trained
    assert len(trained) > 10
    # What cannot be used is what the data stage skips, for the same reasons.
    broken = {k: str(r.cause) for k, r in found.items() if isinstance(r, BrokenImageError)}
    assert broken == dataset.info["skipped"]["files"]
    assert len(broken) > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_its_array_and_its_image_are_the_same(tmp_path: pathlib.Path, channels: int):
    photo = hostile.photo()
    photo.save(tmp_path / "a.png")
    form = Form((20, 30), channels)
    (expected,) = pixels(tmp_path / "a.png", form)
    assert expected.shape == (20, 30, channels)
    for given in (photo, np.asarray(photo), np.asarray(photo)[None], [[photo]], str(tmp_path)):
        (found,) = pixels(given, form)
        assert np.array_equal(found, expected)


def test_images_that_are_still_encoded(tmp_path: pathlib.Path):
    """As a streamed data set has them."""
    hostile.photo().save(tmp_path / "a.png")
    store = ImageStore(Files([str(tmp_path / "a.png")]), np.arange(1), FORM.size)
    (expected,) = pixels(tmp_path)
    assert np.array_equal(pixels(store)[0], expected)
    assert names(store) == ["image 0"]


def test_an_image_of_pillows_stays_as_it_is():
    turned = Image.Exif()
    turned[0x0112] = 6
    plain, photo = hostile.photo(32, 48), hostile.photo(32, 48)
    photo.info["exif"] = turned.tobytes()
    before = photo.tobytes()
    (found,) = pixels(photo)
    assert (photo.tobytes(), photo.size) == (before, (32, 48))
    assert np.array_equal(found, pixels(plain.rotate(-90, expand=True))[0])


def test_grey_images():
    grey = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    for given in (grey, grey[..., None], grey[None, ..., None]):
        (found,) = pixels(given)
        assert np.array_equal(found, np.stack([grey] * 3, axis=-1))


def test_other_numbers_than_bytes():
    shares = np.full((2, 16, 16, 3), 1.0, np.float32)
    assert np.array_equal(pixels(shares)[1], np.full((16, 16, 3), 255, np.uint8))


def test_names(tmp_path: pathlib.Path):
    for name in ("b.png", "a.JPG", "c.txt", ".d.png", "sub/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in ("a.JPG", "b.png", "sub/e.png")]
    assert names(tmp_path) == paths
    assert names(f"{tmp_path}/*.png") == paths[1:2]
    assert names(f"{tmp_path}/**/*.png") == paths[1:]
    assert names(tmp_path / "c.txt") == [str(tmp_path / "c.txt")]  # asked for by name
    array = np.zeros((2, 8, 8, 3), np.uint8)
    photo = hostile.photo()
    assert names(array) == ["image 0", "image 1"]
    assert names(photo) == ["image 0"]
    assert names([photo, array, tmp_path / "b.png", array[0]]) == [
        *("image 0", "image 1.0", "image 1.1"),
        paths[1],
        "image 3",
    ]
    # An array of paths, as a column of a table is one, is a list of paths; so is one of images.
    assert names(np.array(paths)) == names(np.array(paths, object)) == paths
    assert names(np.array(paths[0])) == paths[:1]
    assert names(np.array([photo, *paths[:1]], object)) == ["image 0", *paths[:1]]


def test_the_home_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/a.png") == [str(tmp_path / "a.png")]


def test_a_name_that_looks_like_a_pattern(tmp_path: pathlib.Path):
    (tmp_path / "[a].png").touch()
    assert names(tmp_path / "[a].png") == [str(tmp_path / "[a].png")]
    assert names(f"{tmp_path}/*.png") == [str(tmp_path / "[a].png")]


def test_a_name_that_is_no_text(tmp_path: pathlib.Path):
    (tmp_path / os.fsdecode(b"\xff\n.png")).touch()
    assert names(tmp_path) == [f"{tmp_path}/\\xff\\n.png"]


@pytest.mark.parametrize(
    ("given", "cause", "remedy"),
    [
        ([], "no images are given", FORMS),
        (np.zeros((0, 8, 8, 3)), "no images are given", FORMS),
        (None, "NoneType None is not an image", FORMS),
        ({"a": 1}, "dict {'a': 1} is not an image", FORMS),
        ([3], "int 3 is not an image", FORMS),
        ("nowhere/*.png", "no file matches nowhere/*.png", FORMS),
        (
            np.zeros((8, 8, 4), np.uint8),
            "an array of shape (8, 8, 4) is not an image",
            "Give (height, width, channels) with 1 (grey) or 3 (red, green, blue) channels, "
            "or (n, height, width, channels)",
        ),
        (
            np.zeros((2, 3, 8, 8), np.uint8),
            "given images have shape (2, 3, 8, 8) (channels first?)",
            "Give (n, height, width, channels) with 1 (grey) or 3 (red, green, blue) channels",
        ),
        (
            np.full((8, 8, 3), 2.5),
            "given images have floats from 2.5 to 2.5",
            "Give uint8 pixels 0..255, or floats in 0..1",
        ),
    ],
)
def test_what_is_no_image(given: Any, cause: str, remedy: str):
    with pytest.raises(errors.DataError) as caught:
        images.collect(given)
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


def test_an_empty_folder(tmp_path: pathlib.Path):
    with pytest.raises(errors.DataError) as caught:
        images.collect(tmp_path)
    assert caught.value.cause == f"{tmp_path} holds no images"


@pytest.mark.parametrize(
    ("path", "cause"),
    [("none.png", "No such file or directory"), ("a\0b.png", "embedded null byte")],
)
def test_a_file_that_is_not_there_is_broken(path: str, cause: str):
    (result,) = images.decoded(images.collect(path), FORM)
    assert isinstance(result, BrokenImageError)
    assert result.cause == cause
