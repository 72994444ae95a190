"""Published names and layouts -> names and layouts of our modules, by one rule per kind of layer.

A weight layer's attribute `name` is what its publisher calls it (`ncap_jax.zoo.layers`); a module
that owns parameters itself says so in `published`, pairs of (attribute, published name). What is
left is how the two great conventions call and lay out the arrays inside a layer:

| ours | Keras | PyTorch |
|---|---|---|
| conv `kernel` (h, w, in/groups, out) | `kernel`, the same | `weight` (out, in/groups, h, w) |
| depthwise `kernel` (h, w, 1, channels) | `depthwise_kernel` (h, w, channels, 1) | as conv |
| dense `kernel` (in, out) | `kernel`, the same | `weight` (out, in) |
| norm `scale`, `bias`, `mean`, `var` | `gamma`, `beta`, `moving_mean`, `moving_variance` |
  `weight`, `bias`, `running_mean`, `running_var` |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from flax import nnx

from ncap_jax.zoo import layers

Convention = Literal["keras", "torch"]

# Kind of layer -> our leaf -> names the publisher may use, in order of preference.
Names = dict[str, tuple[str, ...]]
_KERAS_NORM: Names = {
    "scale": ("gamma",),
    "bias": ("beta",),
    "mean": ("moving_mean",),
    "var": ("moving_variance",),
}
_TORCH_NORM: Names = {
    "scale": ("weight",),
    "bias": ("bias",),
    "mean": ("running_mean",),
    "var": ("running_var",),
}
_PLAIN_TORCH: Names = {"kernel": ("weight",), "bias": ("bias",)}
_NAMES: dict[tuple[Convention, str], Names] = {
    # A separable convolution is one layer in Keras, a depthwise and a plain one here.
    ("keras", "conv"): {"kernel": ("kernel", "pointwise_kernel"), "bias": ("bias",)},
    ("keras", "depthwise"): {"kernel": ("depthwise_kernel", "kernel"), "bias": ("bias",)},
    ("keras", "dense"): {"kernel": ("kernel",), "bias": ("bias",)},
    ("keras", "norm"): _KERAS_NORM,
    ("torch", "conv"): _PLAIN_TORCH,
    ("torch", "depthwise"): _PLAIN_TORCH,
    ("torch", "dense"): _PLAIN_TORCH,
    ("torch", "norm"): _TORCH_NORM,
}
# Kernels whose axes stand in another order than ours.
_AXES: dict[tuple[Convention, str], tuple[int, ...]] = {
    ("keras", "depthwise"): (0, 1, 3, 2),
    ("torch", "conv"): (2, 3, 1, 0),
    ("torch", "depthwise"): (2, 3, 1, 0),
    ("torch", "dense"): (1, 0),
}
_SEPARATOR = {"keras": "/", "torch": "."}
# Subclasses before their bases.
_KINDS: tuple[tuple[Any, str], ...] = (
    (layers.DepthwiseConv, "depthwise"),
    (layers.Conv, "conv"),
    (layers.Dense, "dense"),
    (layers.BatchNorm, "norm"),
    (layers.LayerNorm, "norm"),
)


def rename(
    module: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    convention: Convention,
    ignore: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Published arrays under our names and in our layout.

    Args:
        module: built of `ncap_jax.zoo.layers`; only its structure is read.
        arrays: published name -> array: `layer/kind` for Keras, `layer.kind` for PyTorch.
        convention: whose names and layouts they are.
        ignore: names of published layers (or prefixes ending in a separator) that the module
            lacks: the classifier.

    Returns:
        Dotted path in the module's state -> array. What fits no layer keeps its published name,
        so that the two-sided check of `store.assign` reports it.
    """
    table = published_names(module, arrays, convention)
    skip = tuple(f"{name.rstrip('./')}{_SEPARATOR[convention]}" for name in ignore)
    renamed = {}
    for key, array in arrays.items():
        if key in table:
            path, axes = table[key]
            fits = axes is not None and array.ndim == len(axes)
            renamed[path] = np.transpose(array, axes) if fits else array
        elif not key.startswith(skip or ("\0",)) and not key.endswith("num_batches_tracked"):
            renamed[key] = array
    return renamed


def publish(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], convention: Convention
) -> dict[str, np.ndarray]:
    """Our arrays under published names and in the publisher's layout: the reverse of `rename`.

    Args:
        module: built of `ncap_jax.zoo.layers`; only its structure is read.
        arrays: dotted path in the module's state -> array. What belongs to no layer with a
            published name is left out.
        convention: whose names and layouts they become.
    """
    table = published_names(module, (), convention).items()
    return {
        key: arrays[path] if axes is None else np.transpose(arrays[path], np.argsort(axes))
        for key, (path, axes) in table
        if path in arrays
    }


def is_published(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], convention: Convention
) -> bool:
    """Whether any array carries a published name of the module's (else they are our own names)."""
    return not published_names(module, arrays, convention).keys().isdisjoint(arrays)


def published_names(
    module: nnx.Module, available: Iterable[str], convention: Convention
) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """Published name -> (dotted path in the module's state, order of axes or None).

    Args:
        module: built of `ncap_jax.zoo.layers`.
        available: the names in the file; decides between names a publisher uses side by side.
        convention: whose names they are.
    """
    available = set(available)
    table: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    modules: Iterable[tuple[tuple[Any, ...], Any]] = nnx.iter_modules(module)
    for path, layer in modules:
        for leaf, key in getattr(layer, "published", ()):
            table[key] = (_dotted(path, leaf), None)
        kind = next((kind for cls, kind in _KINDS if isinstance(layer, cls)), None)
        if kind is None:
            continue
        for leaf, names in _NAMES[convention, kind].items():
            if not isinstance(getattr(layer, leaf, None), nnx.Variable):
                continue  # a convolution without bias, a norm without scale
            keys = [f"{layer.name}{_SEPARATOR[convention]}{name}" for name in names]
            key = next((key for key in keys if key in available), keys[0])
            axes = _AXES.get((convention, kind)) if leaf == "kernel" else None
            table[key] = (_dotted(path, leaf), axes)
    return table


def _dotted(path: Iterable[Any], leaf: str) -> str:
    return ".".join(map(str, (*path, leaf)))
