"""The embedded default data set: scikit-learn's handwritten digits, ready without a network."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ncap_jax.data.split import stratified_split
from ncap_jax.types import Dataset

SIZE = 32
NUM_VALIDATION = 1297


def load_digits() -> Dataset:
    """1,797 real handwritten digits, enlarged to 32×32×3 and split 500 / 1,297.

    The source is the test part of the UCI set "Optical Recognition of Handwritten Digits"
    (Alpaydin and Kaynak 1998, CC BY 4.0) as scikit-learn ships it: 8×8 pixels, values 0..16. The
    values are scaled to 0..255, enlarged bilinearly (Pillow) and copied to three channels, for
    which the embedded models were pretrained. The stratified split is fixed: it belongs to the
    set and follows no seed. The training part is small on purpose, so that models differ.

    Returns:
        images (500, 32, 32, 3) uint8, labels (500,) int32, and 1,297 of each for validation.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.stack([_enlarge(image) for image in digits.images])
    labels = digits.target.astype(np.int32)
    train, validation = stratified_split(labels, NUM_VALIDATION, seed=0)
    return Dataset(
        images[train],
        labels[train],
        images[validation],
        labels[validation],
        class_names=tuple(str(name) for name in digits.target_names),
        name="digits",
        info={
            "source": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
            "split": "fixed, stratified, 500 / 1297",
        },
    )


def _enlarge(image: np.ndarray) -> np.ndarray:
    """(8, 8) floats in 0..16 -> (32, 32, 3) uint8."""
    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("RGB"))
