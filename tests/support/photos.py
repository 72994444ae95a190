"""Small image files that tests can tell apart."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from PIL import Image


def write_class(
    folder: pathlib.Path,
    count: int,
    *,
    size: tuple[int, int] = (12, 10),
    start: int = 0,
    suffix: str = "png",
) -> None:
    """Image files of (width, height) whose first pixel is (start + number, 0, 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        image = Image.new("RGB", size, (0, 0, 200))
        image.putpixel((0, 0), (number, 0, 0))
        image.save(folder / f"{number:03}.{suffix}")


def first_pixels(images: Any) -> list[int]:
    """The numbers that `write_class` wrote into images, ascending."""
    return sorted(np.asarray(images)[:, 0, 0, 0].tolist())
