import hashlib
import sys

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import load_dataset, load_test_split, published
from ncap_jax.data.images import ImageStore


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        (
            "cifar10",
            (32, 32, 3),
            "157f04963bcaa8f2b230a277a4b232cda9f950dd9ab8a5d7eb8a6682dc40a61f",
        ),
        (
            "fashion_mnist",
            (28, 28, 1),
            "7a3b9b825c4db5310005bcac9137005a24c4ae8ccec6b02404eeb57610039f43",
        ),
    ],
)
def test_real_sets(shared_data, name, shape, digest):
    """Counts, histograms and a checksum of all pixels, through the TFDS route."""
    listing = published.list_published(name, shared_data / "tfds")
    assert np.bincount(listing.parts["train"][1]).tolist() == [1000] * 10
    checked = load_dataset(name, data_dir=shared_data / "tfds")
    assert checked.images.shape == (8_000, *shape)
    assert checked.validation_images.shape == (2_000, *shape)
    assert np.bincount(checked.validation_labels).tolist() == [200] * 10
    images, labels = load_test_split(name, shared_data / "tfds")
    assert images.shape == (2_000, *shape)
    assert np.bincount(labels).tolist() == [200] * 10
    source, labels = listing.parts["train"]
    all_images = ImageStore(source, np.arange(len(labels)), shape[:2], shape[2])
    # The files hold PNG: every decoder gives the same pixels.
    assert hashlib.sha256(np.asarray(all_images).tobytes()).hexdigest() == digest
    assert "tensorflow" not in sys.modules


def test_selection_never_sees_the_test_part(shared_data):
    checked = load_dataset("cifar10", data_dir=shared_data / "tfds")
    images, _ = load_test_split("cifar10", shared_data / "tfds")
    seen = {
        image.tobytes() for part in (checked.images, checked.validation_images) for image in part
    }
    assert len(checked.images) + len(checked.validation_images) == 10_000
    assert not seen & {image.tobytes() for image in images}


def test_unknown_name_offers_near_matches(tmp_path):
    with pytest.raises(errors.DataError, match=r"'ciffar10'\. Did you mean cifar10"):
        load_dataset("ciffar10", data_dir=tmp_path)
    with pytest.raises(errors.DataError, match="Did you mean digits"):
        load_dataset("digit", data_dir=tmp_path)


def test_unprepared_set_names_the_folder(tmp_path):
    with pytest.raises(errors.DataError, match="svhn_cropped is not prepared in") as caught:
        load_dataset("svhn_cropped", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
