"""Any weights file -> arrays for a module: its first bytes tell the format, not its name."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
from flax import nnx

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import keras_h5, keymap, store, torch_files


def fill_from_file(
    module: nnx.Module, spec: ModelSpec, path: str | os.PathLike, sha256: str | None = None
) -> None:
    """Fill a module from a file in our own or in its publisher's format.

    Args:
        module: what `spec.build` returned; filled in place.
        spec: its `layout` says how the publisher names and lays out arrays, and which layers of
            the file the module has no place for.
        path: our safetensors, or the publisher's `.h5`, `.pth` or safetensors.
        sha256: expected digest in hex of a safetensors file.

    Raises:
        WeightsError: missing, damaged, unsafe to read, with values that are not finite, or of
            another architecture: then the error lists what is left over, what is unfilled, and
            shapes that differ.
    """
    arrays = read(path, sha256)
    convention = spec.layout.convention
    if convention == "timm":
        build: Any = spec.build
        arrays = build.published(arrays, str(path))
    elif convention is not None and keymap.is_published(module, arrays, convention):
        arrays = keymap.rename(module, arrays, convention, spec.layout.classifier)
    store.assign(module, arrays, str(path))


def read(path: str | os.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a weights file by the names they have there.

    Raises:
        WeightsError: missing, damaged, unsafe to read, or not a weights file.
    """
    path = pathlib.Path(path)
    start = _first_bytes(path)
    if start.startswith(keras_h5.SIGNATURE):
        return keras_h5.read(path)
    # safetensors: eight bytes of length, then a header in JSON. Before the pickles, for a length
    # may begin with any byte, theirs (0x80) too.
    if start[8:9] == b"{":
        return store.read_safetensors(path, sha256)
    if start.startswith(torch_files.SIGNATURES):
        return torch_files.read(path)
    page = start.lstrip()[:1] == b"<"
    raise errors.WeightsError(
        f"{path} is {'a web page' if page else 'not a weights file'} (it starts with {start!r})",
        "Give Keras's legacy .h5, a PyTorch checkpoint or safetensors; if this was meant to be "
        "one, download it again",
    )


def _first_bytes(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise errors.WeightsError(
            f"cannot read the weights file {path}: {error.strerror}",
            "Check the path and its permissions",
        ) from error
    if not start:
        raise errors.WeightsError(f"the weights file {path} is empty", "Download or copy it again")
    return start
