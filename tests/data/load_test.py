import os

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import load_dataset, load_test_split
from ncap_jax.options import DataConfig
from ncap_jax.types import Dataset
from tests.support.photos import write_class

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


def test_the_seed_is_an_option_only_where_something_is_drawn():
    assert refusal("digits", sead=5) == "unknown option 'sead'. Did you mean seed or stream."
    message = refusal("digits", function=load_test_split, seed=5)
    assert message.startswith("unknown option 'seed'. Known: data_dir, image_size, ")


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


@pytest.mark.parametrize("source", [3, None, (IMAGES, [0, 1])])
def test_what_is_not_a_source(source):
    message = refusal(source, kind=errors.DataError)
    assert " does not name a data set. Give a name, the path of a folder or CSV file" in message
    assert message.endswith("or ncap_jax.Dataset(images, labels).")


def test_the_test_part_has_the_size_and_numbers_of_training(tmp_path):
    write_class(tmp_path / "train" / "cat", 3, size=(8, 8))
    write_class(tmp_path / "train" / "dog", 3, size=(8, 8))
    write_class(tmp_path / "test" / "dog", 2, size=(20, 30), start=50)
    images, labels = load_test_split(tmp_path)
    assert images.shape == (2, 8, 8, 3)
    assert labels.tolist() == [1, 1]
    by_record, _ = load_test_split(tmp_path, DataConfig(image_size=6, max_train=2, stream=True))
    assert by_record.shape == (2, 6, 6, 3), "decoded, and neither split nor cut"


def test_digits_have_no_test_part():
    assert refusal("digits", function=load_test_split, kind=errors.DataError) == (
        "digits has no test part. Use its validation part, which has 1,297 samples."
    )


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
