"""A network with one layer of each kind, and files of its weights as publishers write them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import h5py
import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm, Dense, DepthwiseConv
from ncap_jax.zoo.weights import store


class Net(Backbone):
    """One layer of each kind."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.stem = ConvNorm(Conv(3, 4, 3, name="a", rngs=rngs), BatchNorm(4, name="b", rngs=rngs))
        # A separable convolution: one published layer, two of ours.
        self.depthwise = DepthwiseConv(4, 3, name="c", rngs=rngs)
        self.pointwise = Conv(4, 5, 1, name="c", rngs=rngs)
        self.dense = Dense(5, 6, name="d", rngs=rngs)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        return {"d": self.dense(self.pointwise(self.depthwise(self.stem(x))))}


# Keras's name of each array -> its shape there, and the path where it comes to lie.
KERAS: dict[str, tuple[tuple[int, ...], str]] = {
    "a/kernel": ((3, 3, 3, 4), "stem.conv.kernel"),
    "b/gamma": ((4,), "stem.norm.scale"),
    "b/beta": ((4,), "stem.norm.bias"),
    "b/moving_mean": ((4,), "stem.norm.mean"),
    "b/moving_variance": ((4,), "stem.norm.var"),
    "c/depthwise_kernel": ((3, 3, 4, 1), "depthwise.kernel"),
    "c/pointwise_kernel": ((1, 1, 4, 5), "pointwise.kernel"),
    "d/kernel": ((5, 6), "dense.kernel"),
    "d/bias": ((6,), "dense.bias"),
}
SPEC = ModelSpec("net", Net, 8, 6, layout=WeightsLayout("keras", ("predictions",)))


def net() -> Net:
    return Net(rngs=nnx.Rngs(0))


def keras_arrays() -> dict[str, np.ndarray]:
    """Random weights of `Net` under Keras's names and in its layout."""
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, (shape, _) in KERAS.items()}


def check_filled(module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """The module holds these arrays of `keras_arrays`, and nothing else."""
    state = store.state_arrays(module)
    for key, (_, path) in KERAS.items():
        expected = np.transpose(arrays[key], (0, 1, 3, 2)) if "depthwise" in key else arrays[key]
        np.testing.assert_array_equal(state[path], expected)
    assert set(state) == {path for _, path in KERAS.values()}


def write_h5(
    path: pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    *,
    style: str = "{layer}/{kind}:0",
    group: str | None = None,
    chunks: bool = False,
) -> None:
    """A legacy file of Keras.

    Args:
        path: of the file.
        arrays: by `layer/kind`.
        style: how that age of Keras named weights inside a layer's group.
        group: that holds everything; None: the root.
        chunks: split the list of layers over two attributes, as Keras does with long ones.
    """
    layers: dict[str, list[str]] = {}
    for key in arrays:
        layers.setdefault(key.rsplit("/", 1)[0], []).append(key)
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        names = [name.encode() for name in layers]
        if chunks:
            half = len(names) // 2
            root.attrs["layer_names0"], root.attrs["layer_names1"] = names[:half], names[half:]
        else:
            root.attrs["layer_names"] = names
        for layer, keys in layers.items():
            kinds = [key.rsplit("/", 1)[1] for key in keys]
            weights = [style.format(layer=layer, kind=kind) for kind in kinds]
            root.create_group(layer).attrs["weight_names"] = [w.encode() for w in weights]
            for weight, key in zip(weights, keys):
                root[layer].create_dataset(weight, data=arrays[key])
