"""Where the sections of `benchmarks.accelerator` find data sets and weights.

A folder is either laid out as `benchmarks.accelerator_pack` packs it (`cifar10/train/<class>/*`,
`weights/*`), or holds the sets as they were prepared (`tfds/<set>`, `birds/<set>`, `weights/*`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

import ncap_jax as ncap
from ncap_jax import files
from ncap_jax.types import Dataset

# How the names of packed archives end.
ENDING = ".tar.xz"


def load(name: str, folder: str, train: int, validation: int, side: int | None = None) -> Dataset:
    """A set's training and validation images, chosen by class.

    Args:
        name: digits, or one of the folder.
        folder: of all sets.
        train: training images at most.
        validation: likewise.
        side: of the images in pixels; None: their own.
    """
    source, options = place(name, pathlib.Path(folder))
    wanted = dataclasses.replace(options, max_train=train, max_validation=validation)
    return ncap.load_dataset(source, dataclasses.replace(wanted, image_size=side, stream=False))


def place(name: str, folder: pathlib.Path) -> tuple[str, ncap.DataConfig]:
    """What `load_dataset` is asked for.

    Raises:
        FileNotFoundError: the folder has no such set.
    """
    if name == "digits":
        return name, ncap.DataConfig()
    for images in (folder / name, folder / "birds" / name):
        if images.is_dir():
            return str(images), ncap.DataConfig()
    if (folder / "tfds" / name).is_dir():
        return name, ncap.DataConfig(data_dir=str(folder / "tfds"))
    raise FileNotFoundError(f"{folder} has no {name}")


def missing(folder: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    """Data set -> why it cannot be loaded, for those that cannot."""
    reasons = {}
    for name in names:
        try:
            place(name, folder)
        except FileNotFoundError as error:
            reasons[name] = str(error)
    return reasons


def unpacked(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """The folder to read from: the source, or, if that is a packed one, what is in it.

    Args:
        source: folder of data sets and weights, or of archives.
        target: where archives are unpacked, each once.
    """
    archives = sorted(source.glob(f"*{ENDING}")) if source.is_dir() else []
    for path in archives:
        mark = target / f".{path.name}.unpacked"
        if not mark.exists():
            with open(path, "rb") as file:
                unpack(file, target)
            files.write_atomically(mark, "")
    return target if archives else source


def unpack(file: BinaryIO, target: pathlib.Path) -> None:
    """Unpack one archive, which may write nowhere else."""
    with tarfile.open(fileobj=file, mode="r:xz") as tar:
        tar.extractall(target, filter="data")
