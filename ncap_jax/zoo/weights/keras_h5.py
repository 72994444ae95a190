"""Reader of Keras's legacy HDF5 weights, the format Keras Applications publishes.

A file (or its group `model_weights`, when a whole model was saved) has an attribute
`layer_names`; each layer is a group with an attribute `weight_names`, relative paths of its
arrays. Over the years the names changed (`conv1/kernel:0`, `conv1/conv1/kernel:0`, `conv1/kernel`,
`block1_conv1_W_1:0`); what stands last in them did not, and that is all that is used.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from ncap_jax import errors

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# gzip makes a file at most a thousand times smaller; beyond that a shape is damaged or a trap.
MAX_RATIO = 1000
# What h5py raises on damaged bytes.
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError)
# Layers that the architecture's author left unnamed: Keras numbers them through the whole session.
_NUMBERED = re.compile(r"^(conv2d|batch_normalization)(?:_(\d+))?$")
_KIND = re.compile(
    r"(?:^|_)(depthwise_kernel|pointwise_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance"
    r"|W|b|running_mean|running_std)(?:_\d+)?$"
)
# Keras 1's words for some of them.
_MODERN = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All weights of a file, by `layer/kind`.

    Args:
        path: legacy `.h5` weights, with or without the classifier, or a whole saved model.

    Returns:
        Arrays by name, such as `conv1/kernel`, `conv1_bn/moving_variance`. Unnamed layers are
        numbered from 0 in the order of their creation: `conv2d_0/kernel`, `conv2d_1/kernel`, ...

    Raises:
        WeightsError: the file is missing, not HDF5, damaged, unsafe (its arrays lie in other
            files), or holds no such weights.
    """
    path = pathlib.Path(path)
    _check_signature(path)
    try:
        with h5py.File(path, "r") as file:
            group = _child(file, "model_weights", path) if "model_weights" in file else file
            return _read_group(group, path)
    except DAMAGE as error:
        raise errors.WeightsError(
            f"the weights file {path} is damaged: {error}",
            "Remove it and download it again, or copy it again from its source",
        ) from error


def _read_group(group: h5py.Group, path: pathlib.Path) -> dict[str, np.ndarray]:
    layers = _attribute(group, "layer_names")
    if not layers:
        raise errors.WeightsError(
            f"{path} has no attribute layer_names",
            "Give a weights file in Keras's legacy .h5 format (as Keras Applications publishes)",
        )
    numbers = creation_order(layers)
    arrays: dict[str, np.ndarray] = {}
    for layer in layers:
        for weight in _attribute(_child(group, layer, path), "weight_names"):
            key = f"{numbers.get(layer, layer)}/{_kind(weight, path)}"
            if key in arrays:
                raise errors.WeightsError(
                    f"{path} contains {key} twice", "Give the weights file of a single, flat model"
                )
            arrays[key] = _array(_child(group, f"{layer}/{weight}", path), path)
    return arrays


def _child(group: h5py.Group, name: str, path: pathlib.Path) -> Any:
    """The object at a path below a group, in this very file: links to other files are refused."""
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise _unsafe(path, f"{name!r} is a {type(link).__name__}")
        group = group[part]
    return group


def _array(dataset: Any, path: pathlib.Path) -> np.ndarray:
    """An array of numbers whose bytes are in this very file."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub":
        raise _unsafe(path, f"{dataset.name!r} is not an array of numbers")
    if dataset.external or dataset.is_virtual:
        raise _unsafe(path, f"{dataset.name!r} lies in another file")
    if dataset.nbytes > MAX_RATIO * path.stat().st_size:
        raise _unsafe(path, f"{dataset.name!r} claims {dataset.nbytes} bytes")
    return np.asarray(dataset)


def _unsafe(path: pathlib.Path, what: str) -> errors.WeightsError:
    return errors.WeightsError(
        f"{path} is not safe to read: {what}", "Download it again from its publisher"
    )


def _attribute(group: h5py.Group, name: str) -> list[str]:
    """A list of strings, which Keras splits over `name0`, `name1`, ... when it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
    values = [value for part in parts for value in part]
    return [v.decode("utf8") if isinstance(v, bytes) else str(v) for v in values]


def creation_order(layers: Iterable[str]) -> dict[str, str]:
    """Number unnamed layers from 0, whatever their session had made before them."""
    found: dict[str, list[tuple[int, str]]] = {}
    for layer in layers:
        if match := _NUMBERED.match(layer):
            found.setdefault(match[1], []).append((int(match[2] or 0), layer))
    return {
        layer: f"{kind}_{order}"
        for kind, numbered in found.items()
        for order, (_, layer) in enumerate(sorted(numbered))
    }


def _kind(weight: str, path: pathlib.Path) -> str:
    """`conv1/conv1/kernel:0` -> `kernel`; Keras 1's `block1_conv1_W_1:0` -> `kernel`."""
    match = _KIND.search(weight.rsplit("/", 1)[-1].split(":", 1)[0])
    if match is None:
        raise errors.WeightsError(
            f"{path} contains {weight!r}, which is not a kind of weight that is known",
            "Give the file of a model of convolution, dense and batch-norm layers",
        )
    return _MODERN.get(match[1], match[1])


def _check_signature(path: pathlib.Path) -> None:
    if not path.is_file():
        raise errors.WeightsError(f"the weights file {path} does not exist", "Check the path")
    with path.open("rb") as file:
        start = file.read(len(SIGNATURE))
    if start != SIGNATURE:
        raise errors.WeightsError(
            f"{path} is not an HDF5 file (it starts with {start!r})",
            "Give the .h5 file that Keras Applications publishes; a web page saved under that "
            "name is a failed download",
        )
