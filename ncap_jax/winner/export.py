"""A model in a format that other programs run: StableHLO, ONNX, PyTorch's weights."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ncap_jax import caching, errors
from ncap_jax.winner import onnx_file, pytorch, stablehlo
from ncap_jax.winner.model import Winner


class Format(NamedTuple):
    """How a format is written, and how the names of its files or folders end."""

    write: Callable[[Winner, pathlib.Path], None]
    ending: str


FORMATS: Mapping[str, Format] = {
    "stablehlo": Format(stablehlo.write, ".stablehlo"),
    "onnx": Format(onnx_file.write, ".onnx"),
    "timm": Format(pytorch.write, "-timm"),
}


def export(
    model: Winner | str | os.PathLike[str],
    format: str,
    output: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write a fine-tuned model in a format that other programs run.

    `stablehlo` and `onnx` hold the whole model: uint8 images (batch, height, width, channels) of
    the size to which its training images were decoded go in, `logits` and `probabilities`
    (batch, classes) come out. `timm` holds the weights under PyTorch's names, for architectures
    that timm or torchvision have. What is written is checked against the model first
    (`stablehlo`, `onnx`).

    Args:
        model: a winner, or the folder to which one was saved.
        format: `stablehlo`, `onnx` (extra `onnx`) or `timm`.
        output: the file to write (`timm`: the folder); None: named after the model, in the
            current folder.

    Returns:
        The path of what was written.

    Raises:
        ConfigError: the format is unknown, or needs a package that is not installed.
        ModelError: the model cannot be written in this format.
        PackageError: the folder holds no model, or a damaged one.
        OutputError: the output cannot be written.
    """
    if format not in FORMATS:
        raise errors.ConfigError(*errors.unknown_name("format", format, FORMATS))
    winner = model if isinstance(model, Winner) else _loaded(model)
    chosen = FORMATS[format]
    path = caching.expanded(f"{winner.name}{chosen.ending}" if output is None else output)
    chosen.write(winner, path)
    return path


def _loaded(folder: str | os.PathLike[str]) -> Winner:
    # Imported here: a model that is in memory was not read from a package.
    from ncap_jax.winner import package

    return package.load(folder)
