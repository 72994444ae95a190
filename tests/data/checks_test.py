import dataclasses

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import checks, load_dataset
from ncap_jax.data.checks import check_images
from ncap_jax.data.images import is_streamed
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset


def check(dataset, *, seed=0, **options):
    return checks.check_dataset(dataset, DataConfig(**options), seed=seed)


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
    ("images", "cause", "remedy"),
    [
        (np.zeros((4, 4)), "have shape (4, 4)", checks.SHAPE),
        (np.zeros((0, 4, 4, 3)), "have shape (0, 4, 4, 3), which is empty", checks.SHAPE),
        (np.zeros((2, 3, 8, 8)), "have shape (2, 3, 8, 8) (channels first?)", checks.SHAPE),
        (np.zeros((2, 8, 8, 4)), "have shape (2, 8, 8, 4)", checks.SHAPE),
        (np.full((2, 4, 4, 3), 300), "have values from 300 to 300", checks.RANGE),
        (np.full((2, 4, 4, 3), -1), "have values from -1 to -1", checks.RANGE),
        (np.full((2, 4, 4, 3), -0.5), "have floats from -0.5 to -0.5", checks.RANGE),
        (np.full((2, 4, 4, 3), 1.5), "have floats from 1.5 to 1.5", checks.RANGE),
        (np.full((2, 4, 4, 3), "a"), "have type <U1", checks.RANGE),
        (np.zeros((2, 4, 4, 3), bool), "have type bool", checks.RANGE),
        (
            [np.zeros((4, 4, 3)), np.zeros((5, 4, 3))],
            "do not form one array (different sizes?)",
            "Resize them to one size, or give an image folder, whose images are resized on reading",
        ),
    ],
)
def test_images_that_cannot_be_used(images, cause, remedy):
    with pytest.raises(errors.DataError) as caught:
        check_images(images)
    assert (caught.value.cause, caught.value.remedy) == (f"training images {cause}", remedy)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_images_are_named(bad):
    images = np.zeros((4, 4, 4, 1), np.float32)
    images[2, 1, 1] = bad
    with pytest.raises(errors.DataError) as caught:
        check_images(images, "validation")
    assert str(caught.value) == (
        "validation image 2 contains NaN or infinity. Repair these images, or leave them out."
    )
    images[3, 0, 0] = bad
    with pytest.raises(errors.DataError) as caught:
        check_images(images)
    assert caught.value.cause == "training image 2 contains NaN or infinity (2 such images)"


def test_validation_is_split_off_stratified(digits_arrays):
    checked = check(digits_arrays, validation_fraction=0.3, seed=1)
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
    checked = check(
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
    checked = check(given)
    np.testing.assert_array_equal(checked.images, given.images)
    np.testing.assert_array_equal(checked.validation_labels, given.validation_labels)
    assert checked.info["validation"] == "given"


def test_checking_twice_changes_nothing(digits_arrays):
    once = check(digits_arrays)
    twice = check(once)
    np.testing.assert_array_equal(once.images, twice.images)
    assert once.info["validation"] == twice.info["validation"]


def test_a_part_that_is_kept_whole_is_not_copied(digits_arrays):
    checked = check(digits_arrays)
    assert check(checked).images is checked.images


def test_parts_that_do_not_fit(digits_arrays):
    arrays = digits_arrays

    def refusal(**changes):
        with pytest.raises(errors.DataError) as caught:
            check(dataclasses.replace(arrays, **changes))
        return str(caught.value)

    assert refusal(labels=arrays.labels[:-1]) == (
        "there are 300 training images but 299 labels. Give one label per image."
    )
    assert refusal(validation_images=arrays.images) == (
        "the data set has validation images but no validation labels. Give both, or neither."
    )
    assert refusal(validation_labels=arrays.labels) == (
        "the data set has validation labels but no validation images. Give both, or neither."
    )
    assert refusal(
        validation_images=np.repeat(arrays.images, 3, axis=-1), validation_labels=arrays.labels
    ) == (
        "training images are (8, 8, 1), validation images (8, 8, 3). "
        "Give both the same height, width and number of channels."
    )


def test_images_that_are_still_encoded_are_chosen_not_decoded(photos):
    once = load_dataset(photos, stream=True)
    for path in photos.glob("*/*"):
        path.unlink()
    twice = check(once, max_train=6)
    assert is_streamed(twice.images)
    assert twice.images.shape == (6, 10, 12, 3)
    assert twice.info["subset_of"] == {"training": 16}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "caf\udce9"}, "name of the data set"),
        ({"info": {"source": {"files": ["caf\udce9"]}}}, "note on the data set"),
        ({"class_names": (*"012345678", "caf\udce9")}, "class name"),
    ],
)
def test_what_is_not_text_is_refused_before_anything_trains(digits_arrays, changes, what):
    with pytest.raises(errors.DataError) as caught:
        check(dataclasses.replace(digits_arrays, **changes))
    assert caught.value.cause == f"the {what} 'caf\\udce9' cannot be written as UTF-8"
    assert caught.value.remedy == (
        "Replace what is not text in it: text.encode('utf-8', 'backslashreplace').decode()"
    )
