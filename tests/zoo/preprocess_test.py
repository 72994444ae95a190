"""uint8 pixels to model input: against Keras, Pillow and the formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ncap_jax import errors
from ncap_jax.zoo import preprocess
from ncap_jax.zoo.preprocess import Preprocess


@pytest.fixture
def photographs() -> np.ndarray:
    """Smooth random images, so that resizing is not all noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((48, 48))) for c in coarse])


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_scaling_is_keras(mode: str, photographs: np.ndarray):
    from keras.src.applications import imagenet_utils

    theirs = imagenet_utils.preprocess_input(
        photographs.astype(np.float32), data_format="channels_last", mode=mode
    )
    ours = preprocess.preprocess(jnp.asarray(photographs), mode)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_unit_tflite_squeezenet_raw_formulas():
    pixels = jnp.asarray([10, 128, 250], jnp.uint8).reshape(1, 1, 1, 3)
    got = {m: np.asarray(preprocess.preprocess(pixels, m)).ravel() for m in preprocess.MODES}
    x = np.array([10.0, 128.0, 250.0])
    np.testing.assert_allclose(got["unit"], (x / 255 - 0.5) / 0.25, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["tflite"], x / 128 - 1, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["squeezenet"], x[::-1] - [104, 117, 123], rtol=1e-6)
    np.testing.assert_allclose(got["raw"], x)


@pytest.mark.parametrize("size", [17, 31, 96])
def test_resize_is_antialiased_like_pillow(size: int, photographs: np.ndarray):
    ours = preprocess.preprocess(jnp.asarray(photographs), "raw", size)
    theirs = np.stack(
        [
            np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR))
            for p in photographs
        ]
    ).astype(np.float32)
    # Pillow rounds to integers after each of its two passes: up to one grey level.
    assert np.abs(ours - theirs).max() <= 1.01
    assert np.abs(ours - theirs).mean() <= 0.5


def test_native_size_has_no_resize_at_all(photographs: np.ndarray):
    def primitives(size: int | None) -> str:
        jaxpr = jax.make_jaxpr(lambda x: preprocess.preprocess(x, "tf", size))(photographs)
        return str(jaxpr)

    assert "dot_general" in primitives(40)
    for size in (None, 48):
        assert "dot_general" not in primitives(size)
        assert "gather" not in primitives(size)


def test_grey_becomes_three_equal_channels(photographs: np.ndarray):
    grey = photographs[..., :1]
    ours = preprocess.preprocess(jnp.asarray(grey), "torch", 32)
    colour = preprocess.preprocess(jnp.asarray(np.repeat(grey, 3, -1)), "torch", 32)
    assert ours.shape == (3, 32, 32, 3)
    np.testing.assert_allclose(ours, colour, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_result_has_the_dtype_asked_for(dtype: type, photographs: np.ndarray):
    ours = preprocess.preprocess(jnp.asarray(photographs), "tf", 32, dtype)
    single = preprocess.preprocess(jnp.asarray(photographs), "tf", 32)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, single.astype(dtype))


def test_float64(photographs: np.ndarray):
    with jax.enable_x64(True):
        ours = preprocess.preprocess(jnp.asarray(photographs), "torch", None, jnp.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(ours, (photographs / 255 - mean) / std, rtol=1e-14, atol=1e-14)


def test_everything_decided_but_the_images(photographs: np.ndarray):
    decided = Preprocess("tf", 32, jnp.bfloat16)
    images = jnp.asarray(photographs)
    expected = preprocess.preprocess(images, "tf", 32, jnp.bfloat16)
    np.testing.assert_array_equal(decided(images), expected)
    # A static argument: equal values are one program, however the dtype is written.
    again = Preprocess("tf", 32, "bfloat16")
    assert (again, hash(again)) == (decided, hash(decided))
    run = jax.jit(lambda f, x: f(x), static_argnums=0)
    for each in (decided, again):
        np.testing.assert_array_equal(run(each, images), jax.jit(decided)(images))
    assert run._cache_size() == 1
    others = (Preprocess("torch", 32, jnp.bfloat16), Preprocess("tf", 31, jnp.bfloat16))
    assert decided not in (*others, Preprocess("tf", 32))
    assert Preprocess("tf")(images).shape == images.shape


def test_unknown_modes_are_refused():
    images = jnp.zeros((1, 4, 4, 3), jnp.uint8)
    for refused in (lambda: preprocess.preprocess(images, "torhc"), lambda: Preprocess("torhc")):
        with pytest.raises(errors.ConfigError) as refusal:
            refused()
        assert refusal.value.cause == "unknown preprocessing mode 'torhc'"
        assert refusal.value.remedy == "Did you mean torch"


def test_impossible_sizes_are_refused():
    images = jnp.zeros((1, 4, 4, 3), jnp.uint8)
    for refused in (lambda: preprocess.preprocess(images, "tf", 0), lambda: Preprocess("tf", 0)):
        with pytest.raises(errors.ConfigError) as refusal:
            refused()
        assert str(refusal.value) == "input size is 0. Give a side of at least one pixel."


@pytest.mark.parametrize(
    ("images", "cause", "remedy"),
    [
        (
            jnp.zeros((1, 4, 4, 3), jnp.float32),
            "images are float32",
            "Give uint8 pixels in 0..255; scaling happens here",
        ),
        (
            jnp.zeros((4, 4, 3), jnp.uint8),
            "images have shape (4, 4, 3)",
            "Give (batch, height, width, channels) with 1 or 3 channels",
        ),
        (
            jnp.zeros((1, 4, 4, 4), jnp.uint8),
            "images have shape (1, 4, 4, 4)",
            "Give (batch, height, width, channels) with 1 or 3 channels",
        ),
    ],
)
def test_other_arrays_are_refused(images: jax.Array, cause: str, remedy: str):
    with pytest.raises(errors.DataError) as refusal:
        preprocess.preprocess(images, "tf")
    assert (refusal.value.cause, refusal.value.remedy) == (cause, remedy)


@pytest.mark.parametrize("mode", ["torch", "tf", "unit", "raw", "tflite"])
def test_a_text_says_what_a_mode_does(mode: str):
    images = np.arange(2 * 6 * 6 * 3, dtype=np.uint8).reshape(2, 6, 6, 3)
    text = preprocess.scaling_of(mode).text
    # The same map, another order of products.
    np.testing.assert_allclose(
        preprocess.preprocess(images, text, 4), preprocess.preprocess(images, mode, 4), atol=2e-4
    )


def test_a_crop_is_the_middle_of_a_larger_image():
    images = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    plain, cropped = "mean=0,0,0 std=1,1,1", "mean=0,0,0 std=1,1,1 crop=0.8"
    whole = preprocess.preprocess(images, plain, 20)
    middle = preprocess.preprocess(images, cropped, 16)
    np.testing.assert_allclose(middle, whole[:, 2:-2, 2:-2], atol=1e-6)


def test_bicubic_is_pillows(photographs: np.ndarray):
    mode = (
        "mean=0,0,0 std=0.00392156862745098,0.00392156862745098,0.00392156862745098 resize=bicubic"
    )
    ours = preprocess.preprocess(photographs, mode, 20)
    theirs = Image.fromarray(photographs[0]).resize((20, 20), Image.Resampling.BICUBIC)
    # Pillow rounds to whole pixels twice and cuts off what is out of range.
    assert np.max(np.abs(np.clip(ours[0], 0, 255) - np.asarray(theirs))) < 1.6


@pytest.mark.parametrize(
    "text",
    ["mean=0,0,0 std=0,1,1", "mean=0,0,0 std=1,1,1 crop=0.01", "mean=0,0,0 std=1,1,1 crop=2"],
)
def test_a_text_out_of_range_is_refused(text: str):
    with pytest.raises(errors.ConfigError, match="out of range"):
        preprocess.scaling_of(text)
