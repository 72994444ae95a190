"""A folder of files that no data set should hold, and what must become of each."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Write = Callable[[pathlib.Path], None]


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """A real photograph, made small."""
    from sklearn import datasets

    return Image.fromarray(datasets.load_sample_image("flower.jpg")).resize((width, height))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand: header, extra chunks, deflated rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *((e[:4], e[4:]) for e in extra)]
    chunks += [(b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def content(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def _files() -> dict[str, tuple[Write, str]]:
    """File name -> how to write it, and `skipped: reason`, `converted: note`, `ignored: ...`."""
    p = photo()
    jpeg, lossless = encoded(p, "JPEG"), encoded(p, "PNG")
    grey, palette = p.convert("L"), p.convert("P")
    frames = {"save_all": True, "append_images": [palette.rotate(180)]}
    turned, tall = Image.Exif(), photo(32, 48)
    turned[0x0112] = 6
    wide = (np.asarray(grey).astype(np.uint16) * 257).astype(">u2")
    clear = p.convert("RGBA")
    clear.putalpha(grey)
    bad_crc = bytearray(lossless)
    bad_crc[60] ^= 255
    sixteen_rgb = b"".join(b"\0" + bytes(48 * 6) for _ in range(32))
    text_bomb = b"zTXt" + b"k\0\0" + zlib.compress(bytes(200 * 2**20), 1)
    fits = "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    return {
        "zero_bytes.jpg": (content(b""), "skipped: empty file"),
        "truncated.jpg": (content(jpeg[: len(jpeg) // 2]), "skipped: cannot be decoded"),
        "truncated.png": (content(lossless[: len(lossless) // 2]), "skipped: cannot be decoded"),
        "header_only.jpg": (content(jpeg[:20]), "skipped: "),
        "text.png": (content(b"this is no image\n" * 50), f"skipped: {fits}"),
        "page.jpg": (content(b"<!DOCTYPE html><title>404</title>"), f"skipped: {fits}"),
        "drawing.png": (content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), f"skipped: {fits}"),
        "program.jpg": (content(b"%!PS-Adobe-3.0 EPSF-3.0\n"), f"skipped: {fits}"),
        "noise.webp": (content(np.random.default_rng(0).bytes(4096)), f"skipped: {fits}"),
        "one_pixel.png": (content(encoded(p.resize((1, 1)), "PNG")), "skipped: 1×1 pixels"),
        "sliver.png": (content(encoded(p.resize((20_000, 1)), "PNG")), "skipped: 20000×1 pixels"),
        "pole.bmp": (content(encoded(p.resize((1, 20_000)), "BMP")), "skipped: 1×20000 pixels"),
        "bomb.png": (
            content(png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))),
            "skipped: more than 89478485 pixels",
        ),
        "small_bomb.png": (
            content(png(10_000, 10_000, 1, 0, bytes(1251 * 10_000))),
            "skipped: 10000×10000 pixels, more than 89478485",
        ),
        "text_bomb.png": (
            content(png(48, 32, 8, 2, bytes(145 * 32), text_bomb)),
            "skipped: cannot be decoded: Decompressed data too large",
        ),
        "bad_checksum.png": (content(bytes(bad_crc)), "skipped: cannot be decoded"),
        "float.tif": (content(encoded(p.convert("F"), "TIFF")), "skipped: floating-point pixels"),
        "wide.tif": (
            content(encoded(Image.fromarray(np.full((32, 48), 70_000, np.int32)), "TIFF")),
            "skipped: more than 16 bits",
        ),
        "symlink_loop.jpg": (lambda path: path.symlink_to(path.name), "skipped: Too many levels"),
        "dangling.jpg": (lambda path: path.symlink_to("nowhere"), "skipped: No such file"),
        "pipe.jpg": (os.mkfifo, "skipped: not a regular file"),
        "folder_loop": (lambda path: path.symlink_to(".."), "ignored: link to a folder"),
        ".hidden.jpg": (content(jpeg), "ignored: hidden"),
        "._resource.jpg": (content(b"\0\5\x16\7"), "ignored: hidden"),
        "Thumbs.db": (content(b"\xd0\xcf\x11\xe0"), "ignored: not an image by its name"),
        "notes.txt": (content(b"notes"), "ignored: not an image by its name"),
        "animated.gif": (
            content(encoded(palette, "GIF", **frames)),
            "converted: first frame of several",
        ),
        "animated.webp": (
            content(encoded(p, "WEBP", save_all=True, append_images=[p.rotate(180)])),
            "converted: first frame of several",
        ),
        "pages.tiff": (
            content(encoded(p, "TIFF", save_all=True, append_images=[p])),
            "converted: first frame of several",
        ),
        "gif_inside.png": (
            content(encoded(palette, "GIF", **frames)),
            "converted: first frame of several",
        ),
        "print.jpg": (content(encoded(p.convert("CMYK"), "JPEG")), "converted: CMYK to RGB"),
        "sixteen.png": (
            content(png(48, 32, 16, 0, b"".join(b"\0" + row.tobytes() for row in wide))),
            "converted: 16 bits to 8",
        ),
        "sixteen_rgb.png": (content(png(48, 32, 16, 2, sixteen_rgb)), "used"),
        "grey.jpg": (content(encoded(grey, "JPEG")), "converted: grey to RGB"),
        "palette.png": (content(encoded(palette, "PNG")), "converted: palette to RGB"),
        "fax.png": (content(encoded(p.convert("1"), "PNG")), "converted: black and white to RGB"),
        "clear.png": (content(encoded(clear, "PNG")), "converted: transparency over white"),
        "turned.jpg": (
            content(encoded(tall, "JPEG", exif=turned)),
            "converted: EXIF rotation applied",
        ),
        "bad_exif.jpg": (content(encoded(p, "JPEG", exif=b"Exif\0\0II*\0\xff\xff")), "used"),
        "trailing.png": (content(lossless + b"garbage" * 100), "used"),
        "jpeg_inside.png": (content(jpeg), "used"),
        "progressive.jpg": (content(encoded(p, "JPEG", progressive=True)), "used"),
        "SHOUTING.JPG": (content(jpeg), "used"),
        "new\nline.jpg": (content(jpeg), "used"),
        "x" * 240 + ".jpg": (content(jpeg), "used"),
        os.fsdecode(b"no-utf8-\xff\xfe.jpg"): (content(jpeg), "used"),
        os.fsdecode(b"no-utf8-\xe9.jpg"): (content(b""), "skipped: empty file"),
    }


def write(folder: pathlib.Path) -> dict[str, str]:
    """Write the hostile files into `folder`; returns file name -> what must become of it."""
    files = _files()
    for name, (make, _) in files.items():
        make(folder / name)
    return {name: expected for name, (_, expected) in files.items()}
