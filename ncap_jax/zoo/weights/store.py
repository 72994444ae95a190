"""Weights of any NNX module as one safetensors file, checked on both sides when read.

Leaf names are the dotted path in the module's state (`blocks.0.conv.kernel`). Random streams
are not weights and are left out. safetensors holds plain arrays: reading runs no code.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from ncap_jax import errors, files


def state_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """Every parameter and statistic of a module by dotted path."""
    return {name: np.asarray(leaf[...]) for name, leaf in _leaves(module).items()}


def assign(module: nnx.Module, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Write `arrays` into the module, in place; every array must have its place and vice versa.

    Args:
        module: receives the values, cast to its dtypes; it may be abstract (`nnx.eval_shape`).
        arrays: dotted path -> array.
        source: named in the error.

    Raises:
        WeightsError: a name on one side only, a shape that differs, or a value that is not finite.
    """
    leaves = _leaves(module)
    if wrong := misfits(arrays, leaves):
        raise errors.WeightsError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(wrong[:6])}",
            "Give the file that belongs to this architecture",
        )
    with np.errstate(over="ignore"):  # what is too large for the module's dtype is refused below
        cast = {
            n: np.asarray(arrays[n]).astype(leaf.dtype, copy=False) for n, leaf in leaves.items()
        }
    check_finite(cast, source)
    placed = jax.device_put(cast)
    for name, leaf in leaves.items():
        # Not `leaf[...] =`: the module may be abstract, holding shapes only until now.
        leaf.set_value(placed[name])


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse weights that are not numbers: behind `max(0, NaN)` they can pass unnoticed.

    Args:
        arrays: dotted path -> array.
        source: named in the error.

    Raises:
        WeightsError: names the first array with NaN or infinity.
    """
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        if wrong := array.size - np.count_nonzero(np.isfinite(array)):
            raise errors.WeightsError(
                f"{source}: {wrong} of the {array.size} values of {name} are not finite",
                "Give intact weights; a training that diverged leaves such values",
            )


def misfits(arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any]) -> list[str]:
    """What keeps arrays from filling places of given shapes, both by name, one phrase each."""
    found = []
    if extra := sorted(set(arrays) - set(leaves)):
        found.append(f"{len(extra)} left over ({_some(extra)})")
    if missing := sorted(set(leaves) - set(arrays)):
        found.append(f"{len(missing)} unfilled ({_some(missing)})")
    for name in sorted(set(arrays) & set(leaves)):
        if arrays[name].shape != leaves[name].shape:
            found.append(f"{name}: {arrays[name].shape} in the file, {leaves[name].shape} here")
    return found


def save_module(
    module: nnx.Module, path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> str:
    """Write a module's weights atomically.

    Args:
        module: whose weights.
        path: of the file; its folder is made if it is not there.
        metadata: kept in the file's header.

    Returns:
        The SHA-256 of the file, in hex.

    Raises:
        OSError: the file cannot be written.
    """
    content = safetensors.numpy.save(state_arrays(module), metadata=dict(metadata or {}))
    with files.atomic_file(pathlib.Path(path)) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def load_module(module: nnx.Module, path: str | os.PathLike, sha256: str | None = None) -> None:
    """Fill a module from a safetensors file written by `save_module`.

    Args:
        module: of the architecture that was saved; filled in place.
        path: the file.
        sha256: expected digest in hex, checked when given.

    Raises:
        WeightsError: no such file, damaged, of another digest or of another architecture, or with
            values that are not finite.
    """
    assign(module, read_safetensors(path, sha256), str(path))


def read_safetensors(path: str | os.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file.

    Raises:
        WeightsError: no such file, not a safetensors file, or of another digest.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.WeightsError(
            f"cannot read the weights file {path}: {error.strerror}",
            "Check the path and its permissions",
        ) from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise errors.WeightsError(
            f"{path} is damaged: its SHA-256 is not the recorded one",
            "Download or copy it again",
        )
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise errors.WeightsError(
            f"{path} is not an intact safetensors file: {error}", "Download or copy it again"
        ) from error


def _leaves(module: nnx.Module) -> dict[str, nnx.Variable]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {
        ".".join(map(str, path)): leaf for path, leaf in flat if not isinstance(leaf, nnx.RngState)
    }


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
