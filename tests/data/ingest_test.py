import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import ingest, load_dataset, load_test_part, load_test_split
from ncap_jax.data.encoded import printable
from ncap_jax.data.images import checksum, is_streamed
from tests.support import hostile
from tests.support.photos import first_pixels, write_class

REMEDY = "Repair or remove them, or leave them out with skip_broken=True (--skip_broken)"


def test_folder_is_split_and_nothing_is_lost(photos):
    loaded = load_dataset(photos)
    assert loaded.name == "photos"
    assert loaded.class_names == ("cat", "dog")
    assert loaded.images.shape == (16, 10, 12, 3)
    assert loaded.validation_images.shape == (4, 10, 12, 3)
    both = [*first_pixels(loaded.images), *first_pixels(loaded.validation_images)]
    assert sorted(both) == [*range(12), *range(100, 108)]
    np.testing.assert_array_equal(loaded.labels, loaded.images[:, 0, 0, 0] >= 100)
    assert loaded.info["label_mapping"] == {"cat": 0, "dog": 1}
    assert loaded.info["stored_size"] == "10×12"
    assert loaded.info["memory"] == "in memory"
    json.dumps(dict(loaded.info))


def test_stream_and_memory_hold_the_same(photos):
    for options in ({}, {"max_train": 7, "max_validation": 3}, {"seed": 4, "image_size": 8}):
        held = load_dataset(photos, stream=False, **options)
        streamed = load_dataset(photos, stream=True, **options)
        assert is_streamed(streamed.images)
        assert is_streamed(streamed.validation_images)
        assert streamed.images.shape == held.images.shape
        assert streamed.images.nbytes == held.images.nbytes
        for name in ("images", "labels", "validation_images", "validation_labels"):
            np.testing.assert_array_equal(np.asarray(getattr(streamed, name)), getattr(held, name))
        assert {**streamed.info, "memory": ""} == {**held.info, "memory": ""}
        assert streamed.info["memory"] == "streamed"
        for name in ("images", "validation_images"):  # so that a change would be noticed
            expected = [checksum(image) for image in getattr(held, name)]
            assert getattr(streamed, name).known.tolist() == expected


def test_large_sets_are_streamed_unasked(photos, monkeypatch):
    decoded = 20 * 10 * 12 * 3
    monkeypatch.setattr(ingest, "IN_MEMORY_BYTES", decoded)
    assert not is_streamed(load_dataset(photos).images)
    monkeypatch.setattr(ingest, "IN_MEMORY_BYTES", decoded - 1)
    assert is_streamed(load_dataset(photos).images)


def test_given_parts_and_the_test_part(photos, tmp_path):
    root = tmp_path / "parts"
    write_class(root / "train" / "cat", 3)
    write_class(root / "train" / "dog", 3, start=100)
    write_class(root / "val" / "cat", 2, start=50)
    write_class(root / "val" / "dog", 2, start=150)
    write_class(root / "test" / "dog", 2, start=200)
    loaded = load_dataset(root)
    assert first_pixels(loaded.images) == [0, 1, 2, 100, 101, 102]
    assert first_pixels(loaded.validation_images) == [50, 51, 150, 151]
    assert loaded.info["validation"] == "given"
    images, labels = load_test_split(root)
    assert first_pixels(images) == [200, 201]
    assert labels.tolist() == [1, 1]
    assert labels.dtype == np.int32
    with pytest.raises(errors.DataError) as caught:
        load_test_split(photos)
    assert str(caught.value) == (
        f"{photos} has no test part. "
        "Add one named test, or set some images aside with test_fraction=0.2."
    )


def test_broken_test_images(photos, tmp_path):
    root = tmp_path / "parts"
    write_class(root / "train" / "cat", 3)
    write_class(root / "train" / "dog", 3)
    write_class(root / "test" / "cat", 2)
    (root / "train" / "cat" / "empty.png").touch()
    assert len(load_test_split(root)[1]) == 2, "training's broken files are training's matter"
    path = root / "test" / "cat" / "001.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(errors.DataError) as caught:
        load_test_split(root)
    assert caught.value.cause.startswith(f"1 image is broken: {path}: cannot be decoded: ")
    assert caught.value.remedy == REMEDY
    assert first_pixels(load_test_split(root, skip_broken=True)[0]) == [0]
    part = load_test_part(root, skip_broken=True)
    assert part.names == (str(root / "test" / "cat" / "000.png"),)
    assert list(part.info["skipped"]["files"]) == [str(path)]
    for name in ("000", "001"):
        (root / "test" / "cat" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(errors.DataError) as caught:
        load_test_part(root, skip_broken=True)
    assert caught.value.cause.startswith("parts has no usable test images: 2 are broken, the first")


def test_images_beside_the_classes_are_no_test_part(photos, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    photos.rename(root / "train")
    write_class(root / "test", 3)
    assert load_test_part(root) is None
    loaded = load_dataset(root)
    assert "test" not in loaded.info
    assert set(loaded.info["ignored"]["files"].values()) == {"not in a class folder"}
    assert load_dataset(root, test_fraction=0.2).info["test"].startswith("4 of 20 training samples")


def test_a_class_of_the_test_part_alone_is_refused(photos, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    photos.rename(root / "train")
    write_class(root / "test" / "owl", 1)
    assert load_dataset(root).class_names == ("cat", "dog")
    with pytest.raises(errors.DataError) as caught:
        load_test_part(root)
    assert str(caught.value) == (
        "the test part has a class that the training part lacks: 'owl'. "
        "Remove these images from the test part, or add such images to the training part."
    )


def test_stored_size_rule():
    assert ingest.stored_size([(10, 12)] * 3, None) == (10, 12)
    assert ingest.stored_size([(10, 12), (40, 30), (50, 90)], None) == (30, 30)
    assert ingest.stored_size([(500, 400)], None) == (256, 256)
    assert ingest.stored_size([(500, 400)], 64) == (64, 64)


def test_different_sizes_are_brought_to_one(photos):
    write_class(photos / "cat", 5, size=(30, 40), start=20)
    assert load_dataset(photos).images.shape[1:] == (10, 10, 3)
    assert load_dataset(photos, image_size=24).images.shape[1:] == (24, 24, 3)


def test_broken_images_stop_the_run_or_are_skipped(photos):
    (photos / "cat" / "000.png").write_bytes(b"no image")
    path = photos / "dog" / "100.png"
    path.write_bytes(path.read_bytes()[:-30])  # the header is whole, the pixels are not
    with pytest.raises(errors.DataError) as caught:
        load_dataset(photos)
    assert caught.value.cause == (
        f"1 image is broken: {photos / 'cat' / '000.png'}: "
        "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    ), "headers are judged before anything is decoded"
    assert caught.value.remedy == REMEDY
    loaded = load_dataset(photos, skip_broken=True, max_train=1000)
    assert len(loaded.labels) + len(loaded.validation_labels) == 18
    skipped = loaded.info["skipped"]
    assert skipped["count"] == 2
    reasons = {name.rsplit("/", 1)[1]: reason for name, reason in skipped["files"].items()}
    assert reasons["000.png"].startswith("not a JPEG")
    assert reasons["100.png"].startswith("cannot be decoded")


@pytest.mark.parametrize("damage", ["header", "pixels"])
def test_a_class_that_loses_all_images_is_an_error(photos, damage):
    for path in (photos / "dog").iterdir():
        path.write_bytes(b"" if damage == "header" else path.read_bytes()[:-30])
    with pytest.raises(errors.DataError) as caught:
        load_dataset(photos, skip_broken=True)
    assert str(caught.value) == (
        "class 'dog' has no training samples. "
        "Add some, or leave the class out of the labels and the class names."
    )


def test_nothing_usable(photos):
    for path in photos.glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(errors.DataError) as caught:
        load_dataset(photos, skip_broken=True)
    assert str(caught.value) == (
        "photos has no usable training images: 20 are broken, the first is "
        f"{photos / 'cat' / '000.png'}: empty file. "
        "Give images in one of the formats JPEG, PNG, WebP, BMP, GIF and TIFF."
    )
    for path in photos.glob("*/*"):
        path.unlink()
    with pytest.raises(errors.DataError) as caught:
        load_dataset(photos)
    assert str(caught.value) == "photos has no training images. Add some."


@pytest.mark.parametrize(("name", "n", "classes"), [("birds6", 608, 6), ("birds525", 2100, 525)])
def test_real_bird_folders(shared_data, name, n, classes):
    loaded = load_dataset(shared_data / "birds" / name)
    assert loaded.num_classes == classes
    assert len(loaded.labels) + len(loaded.validation_labels) == n
    assert loaded.images.shape[1:] == (96, 96, 3)
    assert "classes_without_validation" not in loaded.info
    images, labels = load_test_split(shared_data / "birds" / name)
    assert len(images) == len(labels) == {"birds6": 203, "birds525": 525}[name]
    assert len(set(labels.tolist())) == classes


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory):
    """A sound class, and one that holds the hostile files beside a few sound ones."""
    root = tmp_path_factory.mktemp("hostile")
    for name in ("sound", "odd"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            hostile.photo().rotate(number).save(root / name / f"sound_{number}.png")
    return root, hostile.write(root / "odd")


def test_hostile_files_are_each_named(hostile_folder):
    root, expected = hostile_folder
    assert len(expected) >= 40
    loaded = load_dataset(root, skip_broken=True)
    info = dict(loaded.info)
    json.dumps(info).encode("utf-8")
    skipped, ignored = info["skipped"]["files"], info["ignored"]["files"]
    for name, outcome in expected.items():
        path = printable(root / "odd" / name)
        kind, _, reason = outcome.partition(": ")
        if kind == "skipped":
            assert skipped.pop(path).startswith(reason), name
        elif kind == "ignored":
            assert ignored.pop(path) == reason, name
        elif kind == "converted":
            assert path in info["converted"][reason]["files"], name
        else:
            assert path not in skipped
    assert not skipped
    assert not ignored
    used = sum(not outcome.startswith(("skipped", "ignored")) for outcome in expected.values())
    assert len(loaded.labels) + len(loaded.validation_labels) == 10 + used
    assert info["skipped"]["count"] == sum(o.startswith("skipped") for o in expected.values())


def test_hostile_files_stop_the_run_by_default(hostile_folder):
    """The headers are enough to stop it; those that only decoding reveals come second."""
    root, _ = hostile_folder
    with pytest.raises(errors.DataError) as caught:
        load_dataset(root)
    count, shown = re.fullmatch(r"(\d+) images are broken: (.*)", caught.value.cause).groups()
    assert int(count) > 10
    assert shown.count(f"{root}/odd/") == 10
    assert shown.endswith(f"; and {int(count) - 10} more")
    assert caught.value.remedy == REMEDY


def test_hostile_files_do_not_blow_up_memory(hostile_folder):
    """Peak memory over that of loading sound files, in a process of its own."""
    root, _ = hostile_folder
    script = (
        "import resource, sys; from ncap_jax.data import load_dataset\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "load_dataset('digits'); before = peak()\n"
        "load_dataset(sys.argv[1], skip_broken=True); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    # The bombs would take 381 MiB (20,000² bytes) and 95 MiB, the text 200 MiB; Pillow inflates
    # text in steps up to its own limit of 64 MiB.
    assert int(done.stdout) < 90, done.stdout


def test_truncated_lists_still_count(tmp_path, monkeypatch, photos):
    from ncap_jax.data import listing

    monkeypatch.setattr(listing, "MAX_NAMED", 2)
    for number in range(4):
        (photos / "cat" / f"{number}.txt").touch()
    ignored = load_dataset(photos).info["ignored"]
    assert ignored["count"] == 4
    assert len(ignored["files"]) == 2


def test_checked_set_can_be_checked_again(photos):
    once = load_dataset(photos)
    twice = load_dataset(dataclasses.replace(once, info={}))
    np.testing.assert_array_equal(once.images, twice.images)
