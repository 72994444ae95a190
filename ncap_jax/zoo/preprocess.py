"""From uint8 pixels to a model's input, on the device: grey to RGB, resize, scale.

Pure functions: call them inside `jax.jit`, so that only uint8 pixels cross the bus and XLA fuses
the scaling with what surrounds it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ncap_jax import errors

Interpolation = Literal["bilinear", "bicubic"]
METHODS = {"bilinear": "linear", "bicubic": "cubic"}
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_THREE = rf"({_NUMBER},{_NUMBER},{_NUMBER})"
_TEXT = re.compile(
    rf"mean={_THREE} std={_THREE}(?: crop=({_NUMBER}))?(?: resize=({'|'.join(METHODS)}))?"
)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """An affine map of pixels per channel: (x / divisor - mean) / std.

    Attributes:
        divisor: the pixels 0..255 are divided by it first.
        mean: subtracted, per channel, in the order of the output channels.
        std: divides, per channel, in the order of the output channels.
        bgr: the output channels are blue, green, red (Caffe's order) instead of red, green, blue.
        crop: share of each side that the network sees, in the middle: images are resized to
            `size / crop` and their border is cut off.
        interpolation: of resizing.
    """

    divisor: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    crop: float = 1.0
    interpolation: Interpolation = "bilinear"

    @property
    def text(self) -> str:
        """A mode that says all of it: `mean=0.5,0.5,0.5 std=0.5,0.5,0.5 crop=0.9 resize=bicubic`.

        Mean and deviation are those of pixels in 0..1, red, green, blue.

        Raises:
            ConfigError: the channels are in another order.
        """
        if self.bgr:
            raise errors.ConfigError("no text says bgr", "Use a mode of MODES")
        share = self.divisor / 255
        mean, std = (
            ",".join(repr(value * share) for value in values) for values in (self.mean, self.std)
        )
        return f"mean={mean} std={std} crop={self.crop!r} resize={self.interpolation}"


PLAIN = Scaling()
# mode -> scaling. `caffe`, `tf`, `torch` are Keras Applications' names
# (keras/src/applications/imagenet_utils.py). Add an entry for a model that needs another one.
MODES: dict[str, Scaling] = {
    # VGG, ResNet v1: BGR minus the mean ImageNet pixel.
    "caffe": Scaling(mean=(103.939, 116.779, 123.68), bgr=True),
    # ResNet v2, MobileNet, Inception, Xception; also ViT (AugReg): x / 127.5 - 1.
    "tf": Scaling(divisor=127.5, mean=(1.0, 1.0, 1.0)),
    # DenseNet, torchvision, ConvNeXt: RGB in 0..1, normalised by ImageNet's mean and deviation.
    "torch": Scaling(divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # Quantized TFLite MobileNets (zero point 128, scale 1/128): x / 128 - 1.
    "tflite": Scaling(divisor=128.0, mean=(1.0, 1.0, 1.0)),
    # SqueezeNet as published for Caffe: BGR minus the rounded mean ImageNet pixel.
    "squeezenet": Scaling(mean=(104.0, 117.0, 123.0), bgr=True),
    # The embedded tiny models: (x / 255 - 0.5) / 0.25, in -2..2.
    "unit": Scaling(divisor=255.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    # Pixels 0..255 as they are, for models that scale inside.
    "raw": Scaling(),
}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """`preprocess` with everything but the images decided: uint8 batch -> float input.

    Hashable and compared by value, so that it can be a static argument of `jax.jit`.

    Attributes:
        mode: a key of `MODES`, or a text as `Scaling.text` gives it.
        size: side in pixels of the square the images are resized to; None keeps height and width.
        dtype: of the result.

    Raises:
        ConfigError: `mode` is unknown, or `size` is not positive.
    """

    mode: str
    size: int | None = None
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        scaling_of(self.mode)
        _check_size(self.size)
        # One spelling: float32 as a class and as a dtype are equal but hash differently.
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))

    def __call__(self, images: jax.Array) -> jax.Array:
        """(batch, height, width, channels) uint8 -> (batch, size, size, 3) of `dtype`."""
        return preprocess(images, self.mode, self.size, self.dtype)


def preprocess(
    images: jax.Array, mode: str, size: int | None = None, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Turn uint8 images into a model's input.

    Args:
        images: (batch, height, width, channels) uint8; channels 1 (grey, copied to all three)
            or 3 (red, green, blue).
        mode: a key of `MODES`, or a text as `Scaling.text` gives it.
        size: side in pixels of the square the images are resized to (bilinear unless the mode says
            otherwise, antialiased when shrinking); None keeps height and width. Images that have
            this size stay as they are, unless the mode crops.
        dtype: of the result. The arithmetic is float32 at least.

    Returns:
        (batch, size, size, 3), or (batch, height, width, 3), of `dtype`.

    Raises:
        ConfigError: `mode` is unknown, or `size` is not positive.
        DataError: `images` are not uint8 images of 1 or 3 channels.
    """
    scaling = scaling_of(mode)
    _check_images(images)
    _check_size(size)
    working = jnp.promote_types(dtype, jnp.float32)
    pixels = resize(images.astype(working), size, scaling)
    # Grey images are resized as one channel and spread afterwards: a third of the work.
    pixels = jnp.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    if scaling.bgr:
        pixels = pixels[..., ::-1]
    mean = jnp.asarray(scaling.mean, working)
    std = jnp.asarray(scaling.std, working)
    return ((pixels / scaling.divisor - mean) / std).astype(dtype)


def resize(pixels: jax.Array, size: int | None, scaling: Scaling = PLAIN) -> jax.Array:
    """Resize floating (batch, height, width, channels) to (batch, size, size, channels).

    With half-pixel centres; when shrinking, the kernel is widened by the factor of reduction
    (antialiasing), as in Pillow and `tf.image.resize(antialias=True)`. What a crop cuts off is
    never computed.
    """
    batch, height, width, channels = pixels.shape
    if size is None or (height, width, scaling.crop) == (size, size, 1):
        return pixels
    shape, method = (batch, size, size, channels), METHODS[scaling.interpolation]
    if scaling.crop == 1:
        return jax.image.resize(pixels, shape, method, antialias=True)
    whole = math.floor(size / scaling.crop)
    factors = jnp.asarray([whole / height, whole / width], pixels.dtype)
    border = jnp.full(2, (whole - size) // 2, pixels.dtype)
    return jax.image.scale_and_translate(
        pixels, shape, (1, 2), factors, -border, method, antialias=True
    )


@functools.lru_cache
def scaling_of(mode: str) -> Scaling:
    """The scaling behind a mode: its name in `MODES`, or a text as `Scaling.text` gives it.

    Raises:
        ConfigError: the name is unknown, or the text holds what it may not.
    """
    if mode in MODES:
        return MODES[mode]
    if (found := _TEXT.fullmatch(mode)) is None:
        raise errors.ConfigError(*errors.unknown_name("preprocessing mode", mode, MODES))
    mean, std = (tuple(map(float, found[n].split(","))) for n in (1, 2))
    crop = float(found[3] or 1)
    if min(std) <= 0 or not 0.1 <= crop <= 1:
        raise errors.ConfigError(
            f"the preprocessing {mode!r} has a deviation or a crop out of range",
            "Give positive deviations and a crop from 0.1 to 1",
        )
    return Scaling(
        255.0,
        mean,  # type: ignore[arg-type]
        std,  # type: ignore[arg-type]
        crop=crop,
        interpolation=cast(Interpolation, found[4] or "bilinear"),
    )


def _check_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise errors.ConfigError(f"input size is {size}", "Give a side of at least one pixel")


def _check_images(images: jax.Array) -> None:
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise errors.DataError(
            f"images have shape {images.shape}",
            "Give (batch, height, width, channels) with 1 or 3 channels",
        )
    if images.dtype != jnp.uint8:
        raise errors.DataError(
            f"images are {images.dtype}", "Give uint8 pixels in 0..255; scaling happens here"
        )
