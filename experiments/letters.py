"""Pictures of letters: a source of data that needs no download, drawn in matplotlib's typefaces.

Every picture is one capital letter, turned, moved and scaled at random, in two random colours. As
in sets of letters from computer fonts, what is new in validation is the hand: classes are the 26
letters, and one face of each family validates alone. The other way round, classes are the five
families, and it is letters that validate alone.

The pictures are the same for the same seed, matplotlib (its fonts) and Pillow.
"""

from __future__ import annotations

import functools
import pathlib
import string
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ncap_jax.types import Dataset

SIDE = 32
TRAIN, VALIDATION = 2000, 1000
# Family -> its faces, the last of which shows letters in validation only.
FAMILIES = {
    "sans": ("DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSans"),
    "mono": (
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
        "DejaVuSansMono",
    ),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic"),
    "stix": ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta", "STIXGeneralBol"),
    "computer_modern": ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
}
LETTERS = string.ascii_uppercase
# These show typefaces in validation only.
UNSEEN = "CFJMQTWZ"
# The letter is drawn as large as this before it is turned and scaled.
_DRAWN = 64
# Grounds and letters are apart by this, of 255, at least in their mean over the colours.
_CONTRAST = 60


def load(*, typefaces: bool = False, seed: int = 0) -> Dataset:
    """2,000 pictures to train on and 1,000 to validate, as many of each class but for rounding.

    Args:
        typefaces: whether classes are the families of typefaces instead of the letters.
        seed: of everything that is random.

    Returns:
        images (2000, 32, 32, 3) uint8, labels (2000,) int32, and 1,000 of each for validation.
    """
    random = np.random.default_rng(seed)
    parts = []
    for validates, size in ((False, TRAIN), (True, VALIDATION)):
        shown = [letter for letter in LETTERS if not typefaces or (letter in UNSEEN) == validates]
        classes = tuple(FAMILIES) if typefaces else LETTERS
        labels = random.permutation(np.arange(size) % len(classes)).astype(np.int32)
        images = [
            _picture(str(random.choice(shown)), str(random.choice(FAMILIES[classes[k]])), random)
            if typefaces
            else _picture(classes[k], _any_face(validates, random), random)
            for k in labels
        ]
        parts.append((np.stack(images), labels))
    (train, labels), (validation, validation_labels) = parts
    return Dataset(
        train,
        labels,
        validation,
        validation_labels,
        class_names=tuple(classes),
        name="letters",
        info={"source": f"drawn in the typefaces of matplotlib {matplotlib.__version__}"},
    )


def _any_face(validates: bool, random: np.random.Generator) -> str:
    faces = FAMILIES[str(random.choice(list(FAMILIES)))]
    return faces[-1] if validates else str(random.choice(faces[:-1]))


def _picture(letter: str, face: str, random: np.random.Generator) -> np.ndarray:
    """(32, 32, 3) uint8."""
    drawn = _turned(_drawn(letter, face), random.uniform(-15, 15))
    side = round(random.uniform(0.5, 0.9) * SIDE)
    scale = side / max(drawn.size)
    width, height = (max(1, round(scale * length)) for length in drawn.size)
    left, top = (int(random.integers(0, SIDE - length + 1)) for length in (width, height))
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(drawn.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    share = np.asarray(mask, np.float64)[..., None] / 255
    ink, ground = _colours(random)
    return np.round(share * ink + (1 - share) * ground).astype(np.uint8)


@functools.cache
def _drawn(letter: str, face: str) -> Image.Image:
    """The letter alone, white on black, without a margin."""
    file = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    font = ImageFont.truetype(str(file), _DRAWN)
    image = Image.new("L", (3 * _DRAWN, 3 * _DRAWN))
    ImageDraw.Draw(image).text((_DRAWN, _DRAWN), letter, fill=255, font=font)
    return image.crop(image.getbbox())


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    return turned.crop(turned.getbbox())


def _colours(random: np.random.Generator) -> Sequence[np.ndarray]:
    """Of the letter and of the ground, (3,) each."""
    while True:
        ink, ground = random.uniform(0, 255, (2, 3))
        if abs(ink.mean() - ground.mean()) >= _CONTRAST:
            return ink, ground
