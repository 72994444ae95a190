import io
import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from ncap_jax import errors
from ncap_jax.data import (
    contact_sheet,
    count_leaks,
    encoded,
    images,
    load_dataset,
    statistics,
    thumbnail,
)
from ncap_jax.data.describe import repeated
from ncap_jax.data.held_out import HeldOut
from ncap_jax.types import Dataset


def test_statistics_of_the_digits():
    digits = load_dataset("digits")
    facts = statistics(digits)
    json.dumps(facts)
    assert (facts["num_train"], facts["num_validation"], facts["num_classes"]) == (500, 1297, 10)
    assert facts["image_shape"] == [32, 32, 3]
    assert sum(row["train"] for row in facts["classes"]) == 500
    assert [row["name"] for row in facts["classes"]] == list("0123456789")
    assert facts["imbalance"] == 51 / 48
    largest = np.bincount(digits.labels).argmax()
    assert facts["majority_accuracy"] == np.mean(digits.validation_labels == largest)
    assert facts["memory_bytes"] == 1797 * 32 * 32 * 3
    assert facts["duplicates"] == 0


def test_leaks_between_the_parts_are_counted():
    digits = load_dataset("digits")
    leaky = Dataset(
        digits.images,
        digits.labels,
        np.concatenate([digits.validation_images[:20], digits.images[:3]]),
        np.concatenate([digits.validation_labels[:20], digits.labels[:3]]),
    )
    assert statistics(load_dataset(leaky))["duplicates"] == 3
    assert repeated(digits.images, digits.images).sum() == 500


def test_test_images_that_were_seen_are_counted_and_warned_of(photos):
    loaded = load_dataset(photos, stream=True)
    test = HeldOut(
        np.concatenate([loaded.images[3][None], loaded.validation_images[1][None] ^ 1] * 2),
        np.zeros(4, np.int32),
    )
    seen = (
        "2 of 4 test images are also among the training or validation images, pixel by pixel: the "
        "test accuracy will be too high. Remove the copies from one part"
    )
    with pytest.warns(UserWarning, match="test images") as warned:
        assert count_leaks(loaded, test) == 2
    assert [str(warning.message) for warning in warned] == [seen]
    apart = HeldOut(test.images[1::2], test.labels[1::2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_leaks(loaded, apart) == 0


def test_copies_that_have_names_are_named(photos):
    loaded = load_dataset(photos)
    names = tuple(f"{number}.png" for number in range(7))
    for count, words in (
        (1, "1 of 1 test images is also"),
        (7, "(0.png, 1.png, 2.png, 3.png, 4.png and 2 more): the test accuracy"),
    ):
        test = HeldOut(loaded.images[:1].repeat(count, 0), np.zeros(count, np.int32), names)
        with pytest.warns(UserWarning, match=re.escape(words)):
            assert count_leaks(loaded, test) == count


def test_streamed_copies_are_found_by_decoding_nothing_else(photos, monkeypatch):
    loaded, decoded = load_dataset(photos, stream=True), []
    test = HeldOut(loaded.validation_images, loaded.validation_labels)
    real = encoded.ImageStore.decode

    def watched(self, index, **options):
        decoded.append(self.name(index))
        return real(self, index, **options)

    monkeypatch.setattr(encoded.ImageStore, "decode", watched)
    with pytest.warns(UserWarning, match="test images"):
        assert count_leaks(loaded, test) == len(test.labels)
    names = [loaded.validation_images.name(index) for index in range(len(test.labels))]
    assert sorted(decoded) == sorted(2 * names)  # a copy and what it is a copy of


def test_equal_checksums_alone_are_no_repetition(monkeypatch):
    monkeypatch.setattr(images, "checksum", lambda pixels: 7)
    known = np.arange(3, dtype=np.uint8)[:, None, None, None]
    assert repeated(known, known[1:] + 1).tolist() == [True, False]
    assert repeated(known, np.zeros((2, 4, 4, 1), np.uint8)).tolist() == [False, False]


def test_streamed_sets_are_not_decoded_for_it(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    loaded = load_dataset(tmp_path, stream=True)
    for path in tmp_path.glob("*/*"):
        path.unlink()
    facts = statistics(loaded)
    assert facts["duplicates"] is None
    assert facts["memory_bytes"] == 6 * 8 * 8 * 3


def test_contact_sheet_shows_every_class():
    digits = load_dataset("digits")
    png = contact_sheet(digits.images, digits.labels)
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert sheet.shape == (4 * (96 + 14), 6 * 96, 3)
    assert png == contact_sheet(digits.images, digits.labels), "the same choice every time"
    assert png != contact_sheet(digits.images, digits.labels, seed=1)


def test_contact_sheet_holds_the_pixels():
    """Two images of two classes, enlarged threefold, found again in the sheet."""
    digits = load_dataset("digits")
    chosen = [int(np.flatnonzero(digits.labels == k)[0]) for k in (0, 1)]
    images = digits.images[chosen]
    png = contact_sheet(images, np.array([0, 1]), class_names=["zero", "one"])
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    for number, image in enumerate(images):
        tile = sheet[:96, number * 96 : (number + 1) * 96]
        np.testing.assert_array_equal(tile[::3, ::3], image)
        caption = sheet[96:, number * 96 : (number + 1) * 96]
        assert (caption < 128).any(), "the class is written under it"


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 200, 100, 3), 200), ((3, 7, 9, 1), 96), ((3, 96, 96, 1), 96)]
)
def test_contact_sheet_of_any_shape(shape, expected):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    png = contact_sheet(images, np.arange(3), class_names=["ü", "日本", "x" * 300])
    assert Image.open(io.BytesIO(png)).size == (6 * expected, expected + 14)


def test_contact_sheet_of_what_the_model_sees():
    """Preprocessed floats are scaled to the sheet's range."""
    digits = load_dataset("digits")
    floats = digits.images.astype(np.float32) / 127.5 - 1
    assert contact_sheet(floats, digits.labels) == contact_sheet(digits.images, digits.labels)
    flat = np.zeros((2, 8, 8, 3), np.float32)
    assert contact_sheet(flat, np.arange(2)).startswith(b"\x89PNG")


def test_a_sheet_needs_a_batch_of_images():
    with pytest.raises(errors.DataError) as caught:
        contact_sheet(np.zeros((3, 8, 8), np.uint8), np.arange(3))
    assert str(caught.value) == "images have shape (3, 8, 8). Give (m, height, width, 1 or 3)."


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 6, 1), (6, 8)), ((200, 100, 3), (48, 96)), ((1, 4000, 3), (96, 1))]
)
def test_a_thumbnail_is_small_and_a_small_image_is_itself(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = Image.open(io.BytesIO(thumbnail(pixels)))
    assert picture.size == size
    if max(shape) <= 96:
        np.testing.assert_array_equal(np.asarray(picture).reshape(shape), pixels)
