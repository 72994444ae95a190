import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.decode import BrokenImageError
from ncap_jax.data.encoded import Files, ImageStore, printable
from ncap_jax.data.images import checksum
from tests.support.photos import first_pixels


@pytest.fixture
def store(photos):
    """The 12 cats, of 12×10 pixels, stored at their own size."""
    paths = sorted(str(path) for path in (photos / "cat").iterdir())
    return ImageStore(Files(paths), np.arange(12), (10, 12))


def test_a_store_stands_for_its_array(store):
    array = np.asarray(store)
    assert array.shape == store.shape == (12, 10, 12, 3)
    assert first_pixels(array) == list(range(12))
    assert (store.dtype, store.ndim, len(store), store.nbytes) == (
        array.dtype,
        array.ndim,
        len(array),
        array.nbytes,
    )
    np.testing.assert_array_equal(store[-1], array[-1])
    assert np.asarray(store, dtype=np.float32).dtype == np.float32
    with pytest.raises(IndexError):
        store[len(store)]
    with pytest.raises(ValueError, match="by decoding, which copies"):
        np.asarray(store, copy=False)


def test_taking_a_subset_keeps_the_order_and_decodes_nothing(store):
    array = np.asarray(store)
    taken = store.take(np.array([3, 1]))
    again = taken.take(np.array([1]))
    assert taken.name(0).endswith("003.png")
    for path in store.source.paths[4:]:
        os.unlink(path)
    np.testing.assert_array_equal(np.asarray(taken), array[[3, 1]])
    np.testing.assert_array_equal(np.asarray(again), array[[1]])


@pytest.mark.parametrize("threads", [1, 4])
def test_size_channels_and_threads(store, threads):
    grey = ImageStore(store.source, np.arange(3), (6, 8), channels=1, threads=threads)
    assert np.asarray(grey).shape == grey.shape == (3, 6, 8, 1)


def test_decoding_reports_what_was_converted(store):
    grey = ImageStore(store.source, store.indices, store.size, channels=1)
    pixels, notes = grey.decode(2)
    assert pixels.shape == (10, 12, 1)
    assert notes == ("RGB to grey",)
    assert store.decode(2)[1] == ()


def test_checksums_are_verified_where_asked(store):
    path = pathlib.Path(store.source.paths[5])
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the checksum of the last chunk
    path.write_bytes(content)
    np.testing.assert_array_equal(store.decode(5)[0], store[5])
    with pytest.raises(BrokenImageError) as caught:
        store.decode(5, verify=True)
    assert caught.value.cause.startswith("cannot be decoded: ")


def test_an_image_that_disappears_is_named(store):
    path = store.source.paths[3]
    os.unlink(path)
    with pytest.raises(errors.DataError) as caught:
        np.asarray(store)
    assert caught.value.cause == f"{path}: No such file or directory"
    assert caught.value.remedy == (
        "The file was readable when the run began. Restore it, or start the run again"
    )


def test_an_image_that_changes_is_named(store):
    """By its pixels: a file that was only rewritten or touched is the same image."""
    known = np.array([checksum(image) for image in np.asarray(store)], np.uint32)
    watched = dataclasses.replace(store, known=known)
    path = pathlib.Path(store.source.paths[3])
    path.write_bytes(path.read_bytes())
    assert watched[3][0, 0, 0] == 3
    shutil.copy(store.source.paths[4], path)
    with pytest.raises(errors.ChangedDataError) as caught:
        np.asarray(watched)
    assert caught.value.cause == f"{path} has changed since the run began"
    assert caught.value.remedy == (
        "Restore it and repeat the run, which resumes in its folder, or start another run"
    )
    taken = watched.take(np.array([9, 3]))
    assert taken[0][0, 0, 0] == 9
    with pytest.raises(errors.ChangedDataError):
        taken[1]


def test_checksums_are_those_that_must_be_found(store):
    expected = [checksum(image) for image in np.asarray(store)]
    assert store.checksums().tolist() == expected
    watched = dataclasses.replace(store, known=np.array(expected, np.uint32))
    for path in store.source.paths:
        os.unlink(path)
    assert watched.take(np.array([5, 1])).checksums().tolist() == [expected[5], expected[1]]


def test_names_can_be_printed_whatever_their_bytes():
    assert printable("a b/ü.png") == "a b/ü.png"
    assert printable(os.fsdecode(b"b\xff\xfe")) == "b\\xff\\xfe"
    assert printable("new\nline\t") == "new\\nline\\t"
    assert Files(["x\x00"]).name(0) == "x\\x00"
    assert printable("\ud83d.png") == "\\ud83d.png"
