import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import augment, load_dataset


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(load_dataset("digits").images[:64])


def test_flip_mirrors_about_half(images):
    flipped = np.asarray(augment.random_flip(jax.random.key(0), images))
    originals = np.asarray(images)
    mirrored = [(f == o[:, ::-1]).all() for f, o in zip(flipped, originals)]
    kept = [(f == o).all() for f, o in zip(flipped, originals)]
    assert all(m or k for m, k in zip(mirrored, kept))
    # 64 fair coins: outside 16..48 with probability 4e-5, and the key is fixed.
    assert 16 <= sum(mirrored) <= 48


def test_crop_shifts_within_the_reflected_border(images):
    padding = 2
    cropped = np.asarray(augment.random_crop(jax.random.key(1), images, padding))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    offsets = set()
    for number, image in enumerate(cropped):
        windows = {
            (y, x): padded[number, y : y + 32, x : x + 32]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        }
        found = [offset for offset, window in windows.items() if (window == image).all()]
        assert found
        offsets.update(found)
    assert len(offsets) > 15, "of 25 offsets, 64 draws should meet most"


def test_augmentation_is_a_pure_function_of_its_key(images):
    both = augment.Augmentation(flip=True, crop=4)
    first, again = (both(jax.random.key(3), images) for _ in range(2))
    other = both(jax.random.key(4), images)
    jitted = jax.jit(both)(jax.random.key(3), images)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, jitted)
    assert not np.array_equal(first, other)
    assert first.dtype == np.uint8
    assert first.shape == images.shape


def test_off_by_default(images):
    np.testing.assert_array_equal(augment.Augmentation()(jax.random.key(0), images), images)


def test_flip_does_not_depend_on_crop(images):
    """Switching the crop on does not redraw the flips."""
    key = jax.random.key(0)
    alone = augment.Augmentation(flip=True)(key, images)
    again = augment.random_flip(jax.random.split(key)[0], images)
    np.testing.assert_array_equal(alone, again)


@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (2, 40, 30, 3)])
def test_any_shape(shape):
    both = augment.Augmentation(flip=True, crop=3)
    augmented = jax.eval_shape(both, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.uint8))
    assert (augmented.shape, augmented.dtype) == (shape, jnp.uint8)


@pytest.mark.parametrize("padding", [-1, 32])
def test_impossible_crop(images, padding):
    with pytest.raises(errors.ConfigError) as caught:
        augment.random_crop(jax.random.key(0), images, padding)
    assert str(caught.value) == (
        f"cannot crop images of 32×32 pixels by {padding}. "
        "Crop by 0 or more pixels, fewer than the shorter side."
    )


def test_recommendations():
    assert augment.recommended("cifar10", 32) == augment.Augmentation(flip=True, crop=4)
    assert augment.recommended("fashion_mnist", 28) == augment.Augmentation(flip=True, crop=3)
    assert not augment.recommended("digits", 32).flip
    assert not augment.recommended("svhn_cropped", 32).flip
    assert augment.recommended("my_photos", 96) == augment.Augmentation(crop=12)
    assert augment.recommended("caltech_birds2011", 64).crop == 8, "never more than an eighth"


def test_an_option_means_the_augmentation_of_the_set_or_none():
    digits = load_dataset("digits")
    assert augment.augmentation("off", digits) is None
    assert augment.augmentation("recommended", digits) == augment.recommended("digits", 32)
