import errno
import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from ncap_jax.data import decode


@pytest.fixture(scope="module")
def photo():
    """A real photograph, 64×96, RGB."""
    return Image.fromarray(datasets.load_sample_image("flower.jpg")).resize((96, 64))


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return buffer


def test_lossless_formats_give_the_pixels(photo):
    for format, options in (
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
    ):
        pixels, notes = decode.decode(encoded(photo, format, **options))
        np.testing.assert_array_equal(pixels, np.asarray(photo))
        assert notes == ()
        assert decode.read_size(encoded(photo, format, **options)) == (64, 96)


def test_jpeg_is_what_pillow_decodes(photo):
    file = encoded(photo, "JPEG", quality=90)
    expected = np.asarray(Image.open(encoded(photo, "JPEG", quality=90)))
    np.testing.assert_array_equal(decode.decode(file)[0], expected)


@pytest.mark.parametrize(
    ("mode", "note"),
    [("L", "grey to RGB"), ("1", "black and white to RGB"), ("P", "palette to RGB")],
)
def test_other_colour_models_become_rgb(photo, mode, note):
    image = photo.convert(mode)
    pixels, notes = decode.decode(encoded(image))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert notes == (note,)


def test_cmyk(photo):
    image = photo.convert("CMYK")
    pixels, notes = decode.decode(encoded(image, "TIFF"))
    np.testing.assert_array_equal(pixels, np.asarray(photo))
    assert notes == ("CMYK to RGB",)


def test_rgb_becomes_grey_where_asked(photo):
    pixels, notes = decode.decode(encoded(photo), channels=1)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(photo.convert("L")))
    assert notes == ("RGB to grey",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(photo, mode):
    image = photo.convert(mode)
    alpha = np.zeros((64, 96), np.uint8)
    alpha[:, 48:] = 255
    image.putalpha(Image.fromarray(alpha))
    pixels, notes = decode.decode(encoded(image))
    assert (pixels[:, :48] == 255).all()
    right = photo if mode == "RGBA" else photo.convert("L").convert("RGB")
    np.testing.assert_array_equal(pixels[:, 48:], np.asarray(right)[:, 48:])
    assert notes == ("transparency over white",)


def test_transparent_palette_entry(photo):
    image = photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    chosen = np.asarray(image)[0, 0]
    pixels, notes = decode.decode(encoded(image, transparency=int(chosen)))
    assert (pixels[np.asarray(image) == chosen] == 255).all()
    assert notes == ("transparency over white",)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(photo, format):
    grey = np.asarray(photo.convert("L"))
    wide = grey.astype(np.uint16) * 257  # 0..255 -> 0..65535 exactly
    pixels, notes = decode.decode(encoded(Image.fromarray(wide), format))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=-1))
    assert notes == ("16 bits to 8",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(photo, orientation):
    """The stored pixels are turned so that EXIF turns them back."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo.transpose(undo[orientation]) if orientation > 1 else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    # JPEG at full quality without chroma subsampling: a few levels of rounding, no structure.
    options = {"exif": exif, "quality": 100, "subsampling": 0}
    pixels, notes = decode.decode(encoded(stored, "JPEG", **options))
    assert decode.read_size(encoded(stored, "JPEG", **options)) == pixels.shape[:2] == (64, 96)
    assert np.abs(pixels.astype(int) - np.asarray(photo)).max() <= 4
    assert notes == (("EXIF rotation applied",) if orientation > 1 else ())


def test_damaged_exif_leaves_the_pixels(photo):
    file = encoded(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode.decode(file)[0].shape == (64, 96, 3)


def test_first_frame_of_an_animation(photo):
    frames = [photo.convert("P"), photo.rotate(90).convert("P")]
    for format in ("GIF", "WEBP"):
        file = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        pixels, notes = decode.decode(file)
        difference = np.abs(pixels.astype(int) - np.asarray(frames[0].convert("RGB")))
        assert difference.mean() < 1
        assert "first frame of several" in notes


def test_resize_is_antialiased(photo):
    """Shrinking averages: a chequerboard becomes grey, not black or white."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    file = encoded(Image.fromarray(board.astype(np.uint8)))
    pixels, _ = decode.decode(file, size=(8, 8))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_size_is_height_and_width(photo):
    assert decode.decode(encoded(photo), size=(20, 30))[0].shape == (20, 30, 3)


def test_large_jpeg_is_decoded_small_first():
    """A JPEG of 427×640 to 40×40: the shortcut stays within a few levels of the long way."""
    image = Image.fromarray(datasets.load_sample_image("china.jpg"))
    full = Image.open(encoded(image, "JPEG", quality=95))
    expected = np.asarray(full.resize((40, 40), Image.Resampling.BICUBIC))
    pixels, _ = decode.decode(encoded(image, "JPEG", quality=95), size=(40, 40))
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def reason(function, *arguments, **options):
    """Why an image is broken."""
    with pytest.raises(decode.BrokenImageError) as caught:
        function(*arguments, **options)
    return caught.value.cause


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
    ],
)
@pytest.mark.parametrize("function", [decode.decode, decode.read_size, decode.verify])
def test_what_is_not_an_image(function, content):
    assert reason(function, io.BytesIO(content)) == "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_broken(photo, format, share):
    content = encoded(photo, format).getvalue()
    why = reason(decode.decode, io.BytesIO(content[: int(len(content) * share)]))
    assert why.startswith("cannot be decoded: ")


def test_random_damage_never_escapes(photo):
    """Flipped bytes anywhere: pixels or BrokenImageError, no other exception."""
    rng = np.random.default_rng(0)
    outcomes = {"decoded": 0, "broken": 0}
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        content = np.frombuffer(encoded(photo, format).getvalue(), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            places = rng.integers(0, len(content), rng.integers(1, 20))
            damaged[places] = rng.integers(0, 256, len(places))
            try:
                pixels, _ = decode.decode(io.BytesIO(damaged.tobytes()), size=(16, 16))
                assert pixels.shape == (16, 16, 3)
                outcomes["decoded"] += 1
            except decode.BrokenImageError:
                outcomes["broken"] += 1
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (1, 20_000), (3, 100)])
def test_slivers_are_broken(width, height):
    why = reason(decode.decode, encoded(Image.new("RGB", (width, height))))
    assert why == f"{width}×{height} pixels, fewer than 4 on a side"


def test_bombs_are_refused_by_their_header():
    """Few bytes that promise many pixels; nothing is allocated for them."""
    for side, why in (
        (10_000, "10000×10000 pixels, more than 89478485 in all"),
        (40_000, "more than 89478485 pixels"),
    ):
        # The real thing would be 10,000² zeros deflated; the header alone is enough to refuse.
        small = bytearray(encoded(Image.new("L", (8, 8))).getvalue())
        small[16:24] = side.to_bytes(4, "big") * 2
        small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
        assert reason(decode.decode, io.BytesIO(bytes(small))) == why


def test_floating_point_and_wide_pixels_are_broken(photo):
    floats = encoded(photo.convert("F"), "TIFF")
    assert reason(decode.decode, floats) == "floating-point pixels"
    wide = Image.fromarray(np.full((8, 8), 70_000, np.int32))
    assert reason(decode.decode, encoded(wide, "TIFF")) == "more than 16 bits a pixel"


def test_open_file_refuses_what_blocks_or_floods(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for name, why in {
        "pipe.jpg": "not a regular file",
        "empty.jpg": "empty file",
        "folder.jpg": "not a regular file",
        "loop.jpg": os.strerror(errno.ELOOP),
        "missing.jpg": "No such file or directory",
    }.items():
        assert reason(decode.open_file, tmp_path / name) == why
    monkeypatch.setattr(decode, "MAX_BYTES", 10)
    (tmp_path / "big.jpg").write_bytes(b"x" * 11)
    assert reason(decode.open_file, tmp_path / "big.jpg") == "11 bytes, more than 10"


def test_verify_finds_what_decoding_does_not(photo):
    content = bytearray(encoded(photo).getvalue())
    content[len(content) // 2] ^= 1
    file = io.BytesIO(bytes(content))
    assert decode.decode(file)[0].shape == (64, 96, 3), "Pillow alone does not notice"
    file.seek(0)
    assert reason(decode.verify, file).startswith("cannot be decoded: ")
    for format in ("PNG", "JPEG", "WEBP"):
        file = encoded(photo, format)
        decode.verify(file)
        assert file.tell() == 0
