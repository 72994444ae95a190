import dataclasses

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.checks import check_dataset, check_images
from ncap_jax.types import Dataset


@pytest.fixture
def digits_arrays():
    """Real 8×8 digits as grey uint8."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return Dataset(digits.images.astype(np.uint8)[:300, ..., None], digits.target[:300])


def test_images_in_their_usual_forms():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    for form in (pixels, pixels.astype(np.int64), pixels.astype(np.float32), list(pixels)):
        checked, _ = check_images(form)
        assert checked.dtype == np.uint8
        np.testing.assert_array_equal(checked, pixels)
    scaled, note = check_images(pixels / 255.0)
    np.testing.assert_array_equal(scaled, pixels)
    assert note == "float64 in 0..1 times 255"
    grey, note = check_images(pixels[..., 0])
    assert grey.shape == (2, 4, 5, 1)
    assert note == ""


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
        (np.zeros((0, 4, 4, 3)), "none at all"),
        (np.zeros((2, 3, 8, 8)), "channels first"),
        (np.zeros((2, 8, 8, 4)), "shape"),
        (np.full((2, 4, 4, 3), 300), "from 300 to 300"),
        (np.full((2, 4, 4, 3), -1), "from -1 to -1"),
        (np.full((2, 4, 4, 3), -0.5), "from -0.5"),
        (np.full((2, 4, 4, 3), 1.5), "from 1.5"),
        (np.full((2, 4, 4, 3), "a"), "type"),
        (np.zeros((2, 4, 4, 3), bool), "type bool"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], "different sizes"),
    ],
)
def test_images_that_cannot_be_used(images, match):
    with pytest.raises(errors.DataError, match=match) as caught:
        check_images(images)
    assert caught.value.remedy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_images_are_named(bad):
    images = np.zeros((4, 4, 4, 1), np.float32)
    images[2, 1, 1] = bad
    with pytest.raises(errors.DataError, match=r"1 training images .* image 2"):
        check_images(images)


def test_validation_is_split_off_stratified(digits_arrays):
    checked = check_dataset(digits_arrays, validation_fraction=0.3, seed=1)
    assert len(checked.labels) == 210
    assert len(checked.validation_labels) == 90
    assert checked.num_classes == 10
    assert checked.labels.dtype == checked.validation_labels.dtype == np.int32
    assert checked.info["validation"] == "90 of 300 training samples, stratified, seed 1"
    every = [image.tobytes() for image in digits_arrays.images]
    parts = [*checked.images, *checked.validation_images]
    assert sorted(every) == sorted(image.tobytes() for image in parts)


def test_labels_stay_with_their_images(digits_arrays):
    """The label is written into a pixel and must be found beside the image afterwards."""
    marked = digits_arrays.images.copy()
    marked[:, 0, 0, 0] = digits_arrays.labels
    checked = check_dataset(
        dataclasses.replace(digits_arrays, images=marked), max_train=77, max_validation=33
    )
    assert len(checked.labels) == 77
    assert len(checked.validation_labels) == 33
    np.testing.assert_array_equal(checked.images[:, 0, 0, 0], checked.labels)
    np.testing.assert_array_equal(checked.validation_images[:, 0, 0, 0], checked.validation_labels)
    assert checked.info["subset_of"] == {"training": 240, "validation": 60}


def test_given_validation_is_kept(digits_arrays):
    given = Dataset(
        digits_arrays.images[:200],
        digits_arrays.labels[:200],
        digits_arrays.images[200:],
        digits_arrays.labels[200:],
    )
    checked = check_dataset(given)
    np.testing.assert_array_equal(checked.images, given.images)
    np.testing.assert_array_equal(checked.validation_labels, given.validation_labels)
    assert checked.info["validation"] == "given"


def test_checking_twice_changes_nothing(digits_arrays):
    once = check_dataset(digits_arrays)
    twice = check_dataset(once)
    np.testing.assert_array_equal(once.images, twice.images)
    assert once.info["validation"] == twice.info["validation"]


def test_seed_decides_the_split(digits_arrays):
    first, again, other = (check_dataset(digits_arrays, seed=seed).labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_fraction(digits_arrays, fraction):
    with pytest.raises(errors.ConfigError, match="validation_fraction"):
        check_dataset(digits_arrays, validation_fraction=fraction)


def test_parts_that_do_not_fit(digits_arrays):
    with pytest.raises(errors.DataError, match="300 training images but 299 labels"):
        check_dataset(dataclasses.replace(digits_arrays, labels=digits_arrays.labels[:-1]))
    with pytest.raises(errors.DataError, match="validation images were given alone"):
        check_dataset(dataclasses.replace(digits_arrays, validation_images=digits_arrays.images))
    with pytest.raises(errors.DataError, match="validation labels were given alone"):
        check_dataset(dataclasses.replace(digits_arrays, validation_labels=digits_arrays.labels))
    with pytest.raises(errors.DataError, match=r"validation images \(8, 8, 3\)"):
        check_dataset(
            dataclasses.replace(
                digits_arrays,
                validation_images=np.repeat(digits_arrays.images, 3, axis=-1),
                validation_labels=digits_arrays.labels,
            )
        )


def test_subsets_keep_every_class(digits_arrays):
    checked = check_dataset(digits_arrays, max_train=10, max_validation=4)
    assert sorted(checked.labels.tolist()) == list(range(10))
    assert len(checked.info["classes_without_validation"]) == 6
    with pytest.raises(errors.ConfigError, match="max_train is 9 but there are 10 classes"):
        check_dataset(digits_arrays, max_train=9)
    with pytest.raises(errors.ConfigError, match="at least 1"):
        check_dataset(digits_arrays, max_validation=0)


def test_classes_too_small_to_be_split_are_recorded():
    images = np.zeros((7, 4, 4, 1), np.uint8)
    checked = check_dataset(Dataset(images, np.array([0, 0, 0, 1, 1, 1, 2])))
    assert checked.info["classes_without_validation"] == ["2"]
    assert sorted(checked.validation_labels.tolist()) == [0, 1]
