import numpy as np
from sklearn import datasets

from ncap_jax.data import load_dataset


def test_embedded_set():
    digits = load_dataset()
    assert digits.name == "digits"
    assert digits.images.shape == (500, 32, 32, 3)
    assert digits.validation_images.shape == (1297, 32, 32, 3)
    assert digits.images.dtype == np.uint8
    assert digits.class_names == tuple("0123456789")
    assert digits.images.max() == 255
    assert np.bincount(digits.labels).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    total = np.bincount(digits.labels) + np.bincount(digits.validation_labels)
    np.testing.assert_array_equal(total, np.bincount(datasets.load_digits().target))


def test_enlarged_images_are_the_digits():
    """Block means of the 32×32 images order the pixels as the 8×8 originals do."""
    source = datasets.load_digits()
    means = source.images.mean(axis=(1, 2))
    digits = load_dataset()
    enlarged = np.concatenate([digits.images, digits.validation_images])
    assert (enlarged == enlarged[..., :1]).all(), "grey: three equal channels"
    # Rounding moves a pixel by at most half a level; the edges weigh differently when
    # enlarging, so the means agree to a few levels of 255 only.
    got = np.sort(enlarged.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(got, np.sort(means) * 255 / 16, atol=4)


def test_split_is_fixed():
    np.testing.assert_array_equal(load_dataset(seed=0).labels, load_dataset(seed=7).labels)
