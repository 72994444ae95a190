"""Augmentation on the device: horizontal flips and padded crops of uint8 batches.

Pure functions of a key and a batch; call them inside the jitted step. Off unless asked for: what
is safe depends on the data; `recommended` knows it for some sets.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ncap_jax import errors
from ncap_jax.types import Dataset


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image; called as `augmentation(key, images)`.

    Attributes:
        flip: mirror left and right with probability 1/2.
        crop: pad this many pixels at each border, then crop back at a random offset.
    """

    flip: bool = False
    crop: int = 0

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augment a batch.

        Args:
            key: a JAX random key; one per step.
            images: (batch, h, w, c) of any type.

        Returns:
            Of the same shape and type.

        Raises:
            ConfigError: `crop` is negative or not less than the images' sides.
        """
        flip_key, crop_key = jax.random.split(key)
        if self.flip:
            images = random_flip(flip_key, images)
        if self.crop:
            images = random_crop(crop_key, images, self.crop)
        return images


# By name of the set. Digits and numbers are never mirrored; clothes, animals and vehicles may be.
# Crops move an image by an eighth of its side, as has become usual for CIFAR (4 of 32 pixels).
RECOMMENDED = {
    "digits": Augmentation(crop=4),
    "svhn_cropped": Augmentation(crop=4),
    "cifar10": Augmentation(flip=True, crop=4),
    "cifar100": Augmentation(flip=True, crop=4),
    "fashion_mnist": Augmentation(flip=True, crop=3),
    "caltech_birds2011": Augmentation(flip=True, crop=32),
}


def recommended(name: str, size: int) -> Augmentation:
    """The default augmentation of a data set, where augmentation is switched on.

    Args:
        name: of the set; a key of `RECOMMENDED`. For any other set nobody can know whether a
            mirrored image keeps its label (text, hands, road signs): it is cropped by an eighth
            of its side, not flipped.
        size: shorter side of the stored images in pixels.
    """
    chosen = RECOMMENDED.get(name, Augmentation(crop=size // 8))
    return dataclasses.replace(chosen, crop=min(chosen.crop, size // 8))


def augmentation(option: str, dataset: Dataset) -> Augmentation | None:
    """What an option means for a data set.

    Args:
        option: `off` or `recommended`.
        dataset: a checked set.
    """
    if option == "off":
        return None
    return recommended(dataset.name, min(dataset.images.shape[1:3]))


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each of (batch, h, w, c) images left and right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shift each image by up to `padding` pixels either way, each offset equally likely.

    Args:
        key: a JAX random key.
        images: (batch, h, w, c).
        padding: pixels by which each border is extended by reflection (the edge is not repeated).

    Returns:
        Of the same shape and type.

    Raises:
        ConfigError: `padding` is negative or not less than the images' sides.
    """
    _, height, width, channels = images.shape
    if not 0 <= padding < min(height, width):
        raise errors.ConfigError(
            f"cannot crop images of {height}×{width} pixels by {padding}",
            "Crop by 0 or more pixels, fewer than the shorter side",
        )
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)
