import itertools
import os

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import load_dataset, load_test_part, load_test_split
from ncap_jax.data.images import is_streamed
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset
from tests.support.photos import first_pixels, write_class

IMAGES = np.zeros((8, 4, 4, 1), np.uint8)
ARRAYS = Dataset(IMAGES, np.arange(8) % 2, name="mine")


def refusal(*arguments, function=load_dataset, kind=errors.ConfigError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_options_come_as_a_record_or_by_keyword():
    by_record = load_dataset("digits", DataConfig(max_train=20, max_validation=30))
    by_keyword = load_dataset("digits", max_train=20, max_validation=30)
    mixed = load_dataset("digits", DataConfig(max_train=99, max_validation=30), max_train=20)
    for loaded in (by_record, by_keyword, mixed):
        assert (len(loaded.labels), len(loaded.validation_labels)) == (20, 30)
        np.testing.assert_array_equal(loaded.images, by_record.images)


def test_every_option_is_a_keyword(photos):
    loaded = load_dataset(
        photos,
        seed=3,
        data_dir=photos,
        validation_fraction=0.5,
        max_train=6,
        max_validation=4,
        image_size=9,
        skip_broken=True,
        remap_labels=True,
        stream=True,
    )
    assert loaded.images.shape == (6, 9, 9, 3)
    assert loaded.info["subset_of"] == {"training": 10, "validation": 10}
    assert loaded.info["memory"] == "streamed"


@pytest.mark.parametrize("function", [load_dataset, load_test_split])
def test_an_unknown_option_names_the_near_ones(function):
    assert refusal("digits", function=function, max_trian=5) == (
        "unknown option 'max_trian'. Did you mean max_train or max_validation."
    )


def test_a_misspelt_seed_is_named():
    for function in (load_dataset, load_test_part):
        message = refusal("digits", function=function, sead=5)
        assert message == "unknown option 'sead'. Did you mean seed or stream."
        message = refusal("digits", function=function, seed=-1)
        assert message == "seed=-1. Give a whole number from 0 to 4294967295."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"validation_fraction": 1},
            "validation_fraction=1. Give a number between 0 and 1, such as 0.2.",
        ),
        (
            {"validation_fraction": float("nan")},
            "validation_fraction=nan. Give a number between 0 and 1, such as 0.2.",
        ),
        ({"max_validation": 0}, "max_validation=0. Give a whole number of at least 1."),
        ({"max_train": 2.5}, "max_train=2.5 is not a whole number or None. The default is None."),
        ({"image_size": 3}, "image_size=3. Give a side in pixels from 4 to 4096."),
        ({"image_size": 5000}, "image_size=5000. Give a side in pixels from 4 to 4096."),
        ({"stream": "no"}, "stream='no' is not True or False or None. The default is None."),
        ({"seed": -1}, "seed=-1. Give a whole number from 0 to 4294967295."),
    ],
)
def test_options_that_cannot_work(options, message):
    """Refused by the declaration of the option, before anything is read."""
    assert refusal("no such set", **options) == message


def test_what_is_not_a_record_of_options():
    assert refusal("digits", {"max_train": 5}) == (
        "config={'max_train': 5} is not a DataConfig. "
        "Give ncap_jax.DataConfig(...), or single options by keyword."
    )


def test_options_that_do_not_apply_to_arrays():
    for source, name in (("digits", "digits"), (ARRAYS, "mine")):
        for option, value in (("image_size", 64), ("stream", True)):
            assert refusal(source, **{option: value}) == (
                f"{option} does not apply to {name}, whose images are in memory already. "
                "Leave it out: models resize the images to their own input."
            )
    assert len(load_dataset(ARRAYS, stream=False).labels) == 6


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_of_arrays_is_a_data_set(kind):
    for images, labels in ((IMAGES, ARRAYS.labels), (IMAGES.tolist(), ARRAYS.labels.tolist())):
        loaded = load_dataset(kind((images, labels)), max_train=4)
        expected = load_dataset(ARRAYS, max_train=4)
        for part in ("images", "labels", "validation_images", "validation_labels"):
            np.testing.assert_array_equal(getattr(loaded, part), getattr(expected, part))
        assert loaded.name == "arrays"


def test_what_is_not_a_data_set_is_named():
    message = refusal(None, kind=errors.DataError)
    assert message == (
        "None is not a data set. Give a name, the path of a folder or CSV file, (images, labels) "
        "as one pair, or ncap_jax.Dataset(images, labels)."
    )
    message = refusal((IMAGES, [0, 1]), kind=errors.DataError)
    assert message == ("there are 8 training images but 2 labels. Give one label per image.")
    message = refusal((IMAGES, [[0], [0, 1]] * 4), kind=errors.DataError)
    assert message.startswith("labels do not form one array: ")


def test_images_and_labels_as_two_arguments_are_refused():
    message = refusal(IMAGES, ARRAYS.labels, kind=errors.DataError)
    assert message == (
        "images and labels are given as two arguments. Give (images, labels) as one pair."
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [(ARRAYS, "the data set"), ((IMAGES, ARRAYS.labels), "the data set"), ("digits", "digits")],
)
def test_a_set_without_a_test_part(source, name):
    assert load_test_part(source) is None
    assert refusal(source, function=load_test_split, kind=errors.DataError) == (
        f"{name} has no test part. "
        "Add one named test, or set some images aside with test_fraction=0.2."
    )


def numbered(count, **parts):
    """Grey images, each known by its pixels' value, of two classes in turn."""
    values = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (count, 4, 4, 1))
    return Dataset(images, values % 2, **parts)


def test_arrays_bring_their_own_test_part():
    given = numbered(20, test_images=np.full((3, 4, 4), 99, np.uint8), test_labels=[1, 0, 1])
    loaded = load_dataset(given, test_fraction=0.3)
    assert len(loaded.labels) + len(loaded.validation_labels) == 20, "nothing more is set aside"
    assert loaded.test_images is None
    assert loaded.info["test"] == "3 images, set aside"
    images, labels = load_test_part(given, test_fraction=0.3)
    assert images.shape == (3, 4, 4, 1)
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"test_images": IMAGES},
            "the data set has test images but no test labels. Give both, or neither.",
        ),
        (
            {"test_images": IMAGES[:, :2], "test_labels": [0] * 8},
            "training images are (4, 4, 1), test images (2, 4, 1). "
            "Give both the same height, width and number of channels.",
        ),
        (
            {"test_images": IMAGES, "test_labels": [0] * 7},
            "there are 8 test images but 7 labels. Give one label per image.",
        ),
        (
            {"test_images": IMAGES, "test_labels": [2] * 8},
            "the test part has a class that the training part lacks: '2'. "
            "Remove these images from the test part, or add such images to the training part.",
        ),
    ],
)
def test_a_test_part_that_cannot_be_used_is_refused_before_training(parts, message):
    for function in (load_dataset, load_test_part):
        assert refusal(numbered(20, **parts), function=function, kind=errors.DataError) == message


@pytest.mark.parametrize("given", [False, True])
def test_a_fraction_is_set_aside_first(given):
    own = numbered(6)
    parts = {"validation_images": own.images, "validation_labels": own.labels} if given else {}
    source = numbered(60, **parts)
    loaded = load_dataset(source, test_fraction=0.2, seed=4)
    part = load_test_part(source, test_fraction=0.2, seed=4, max_train=5, max_validation=2)
    pixels = [images[:, 0, 0, 0].tolist() for images in (loaded.images, part.images)]
    if not given:
        pixels.append(loaded.validation_images[:, 0, 0, 0].tolist())
    # No image is in two parts, and none is lost.
    assert sorted(itertools.chain(*pixels)) == list(range(60))
    assert np.bincount(part.labels).tolist() == [6, 6]
    np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 2, part.labels)
    assert loaded.info["test"] == "12 of 60 training samples, stratified, seed 4"
    other = load_test_part(source, test_fraction=0.2, seed=5)
    assert other.images[:, 0, 0, 0].tolist() != part.images[:, 0, 0, 0].tolist()
    again = load_dataset(loaded, seed=4)
    assert again.info["test"] == loaded.info["test"], "what was set aside stays known"


@pytest.mark.parametrize("stream", [False, True])
def test_images_set_aside_of_a_folder(photos, stream):
    options = {"test_fraction": 0.25, "stream": stream, "seed": 2}
    loaded, part = (f(photos, **options) for f in (load_dataset, load_test_part))
    held = [first_pixels(i) for i in (loaded.images, loaded.validation_images, part.images)]
    assert sorted(itertools.chain(*held)) == [*range(12), *range(100, 108)]
    assert is_streamed(part.images) == stream
    np.testing.assert_array_equal(part.labels, np.asarray(part.images)[:, 0, 0, 0] >= 100)
    assert np.bincount(part.labels).tolist() == [3, 2]
    numbers = np.asarray(part.images)[:, 0, 0, 0].tolist()
    folders = ["dog" if label else "cat" for label in part.labels]
    assert part.names == tuple(f"{photos}/{f}/{n:03}.png" for f, n in zip(folders, numbers))


def test_a_fraction_that_is_too_large_says_what_can_be_set_aside():
    assert refusal(numbered(8), test_fraction=0.9) == (
        "a test part of 7 samples cannot be split off 8 samples of 2 classes. "
        "Between 1 and 4 samples can be split off, so that every class stays in training and "
        "validation."
    )
    assert refusal(numbered(4), test_fraction=0.5).endswith(
        "Give more samples, so that every class stays in training and validation."
    )


def test_the_test_part_has_the_size_and_numbers_of_training(tmp_path):
    write_class(tmp_path / "train" / "cat", 3, size=(8, 8))
    write_class(tmp_path / "train" / "dog", 3, size=(8, 8))
    write_class(tmp_path / "test" / "dog", 2, size=(20, 30), start=50)
    images, labels = load_test_split(tmp_path)
    assert images.shape == (2, 8, 8, 3)
    assert labels.tolist() == [1, 1]
    config = DataConfig(image_size=6, max_train=2, stream=True, test_fraction=0.5)
    by_record, _ = load_test_split(tmp_path, config)
    assert isinstance(by_record, np.ndarray)
    assert by_record.shape == (2, 6, 6, 3), "decoded, and neither split nor cut"
    part = load_test_part(tmp_path, config)
    assert is_streamed(part.images)
    np.testing.assert_array_equal(np.asarray(part.images), by_record)
    assert load_dataset(tmp_path, config, max_train=None).info["test"] == "2 images, set aside"


def test_names_and_paths_are_told_apart(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_class(tmp_path / "mine" / name, 2)
    monkeypatch.chdir(tmp_path)
    none = tmp_path / "none"
    assert load_dataset("mine", data_dir=none).name == "mine"
    assert load_dataset("./mine").name == "mine"
    os.rename("mine", "cifar10")
    message = refusal("cifar10", kind=errors.DataError, data_dir=none)
    assert message.startswith(f"cifar10 is not prepared in {none}. Give the data_dir that holds it")
    assert load_dataset("./cifar10").name == "cifar10"


def test_a_path_that_is_not_there_is_called_a_path(tmp_path, monkeypatch):
    """`photos` once gave "Did you mean toto or goemotions"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.zip").write_bytes(b"PK")
    monkeypatch.setenv("HOME", str(tmp_path))
    give = "Give the folder that holds the images."
    for source, cause in (
        ("~/photos", f"{tmp_path}/photos is not a folder"),
        ("../photos", "../photos is not a folder"),
        (".photos", ".photos is not a folder"),
        ("photos.zip", "photos.zip is not a folder"),
    ):
        assert refusal(source, kind=errors.DataError) == f"{cause}. {give}"
    for name in ("photos", "pictures", "my_cats", ""):
        assert refusal(name, kind=errors.DataError, data_dir=tmp_path) == (
            f"{name!r} is neither a folder in {tmp_path} nor the name of a data set. "
            "Give the path of a folder or CSV file, or a name such as digits or cifar10."
        )


@pytest.mark.parametrize("source", ["caf\ud83d/", "./caf\ud83d", "caf\ud83d"])
def test_a_path_that_is_not_text_is_refused(source, tmp_path):
    message = refusal(source, kind=errors.DataError, data_dir=tmp_path)
    assert "caf\\ud83d" in message
    assert message.startswith(("caf", "./caf", "'caf"))
    assert "is not a folder. " in message or "is neither a folder in " in message


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    write_class(tmp_path / "mine" / "a", 2)
    write_class(tmp_path / "mine" / "b", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset("~/mine").name == "mine"
