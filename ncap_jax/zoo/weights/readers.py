"""Any weights file -> arrays for a module: the format is told by its first bytes, not its name."""

from __future__ import annotations

import os
import pathlib

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
        spec: `extra["convention"]` says how the publisher names and lays out arrays (`keras` or
            `torch`), `extra["classifier"]` which layers of the file are none of the module's.
        path: our safetensors, or the publisher's `.h5`, `.pth` or safetensors.
        sha256: expected digest in hex of a safetensors file.

    Raises:
        WeightsError: missing, damaged, unsafe to read, or of another architecture: then the error
            lists what is left over, what is unfilled, and shapes that differ.
    """
    arrays = read(path, sha256)
    convention = spec.extra.get("convention")
    if convention is not None and keymap.is_published(module, arrays, convention):
        arrays = keymap.rename(module, arrays, convention, spec.extra.get("classifier", ()))
    store.assign(module, arrays, str(path))


def read(path: str | os.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a weights file by the names they have there.

    Raises:
        WeightsError: missing, damaged, unsafe to read, or no weights file.
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
    kind = "a web page" if start.lstrip()[:1] == b"<" else f"no weights file (it starts {start!r})"
    raise errors.WeightsError(
        f"{path} is {kind}",
        "Give Keras's legacy .h5, a PyTorch checkpoint or safetensors; get it again if this was "
        "meant to be one",
    )


def _first_bytes(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise errors.WeightsError(
            f"cannot read the weights {path}: {error.strerror}", "Check the path and its rights"
        ) from error
    if not start:
        raise errors.WeightsError(f"the weights file {path} is empty", "Get it again")
    return start
