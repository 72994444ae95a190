"""Weights on disk: what is saved is what is loaded, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ncap_jax import errors
from ncap_jax.zoo.weights import store


class Net(nnx.Module):
    def __init__(self, width=4, *, rngs):
        self.dense = nnx.Linear(3, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


@pytest.fixture
def saved(tmp_path):
    net = Net(rngs=nnx.Rngs(0))
    net.norm.mean[...] = np.arange(4.0)
    path = tmp_path / "net.safetensors"
    return net, path, store.save_module(net, path)


def test_round_trip(saved):
    net, path, digest = saved
    other = Net(rngs=nnx.Rngs(1))
    store.load_module(other, path, digest)
    ours, theirs = store.state_arrays(net), store.state_arrays(other)
    assert set(ours) == {
        "dense.kernel",
        "dense.bias",
        "norm.scale",
        "norm.bias",
        "norm.mean",
        "norm.var",
    }
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_both_sides_are_reported(saved):
    net, path, _ = saved
    arrays = store.state_arrays(net)
    arrays["stranger"] = arrays.pop("dense.kernel")
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(
        errors.WeightsError, match=r"1 left over \(stranger\).*1 unfilled \(dense.k"
    ):
        store.load_module(net, path)


def test_other_shapes_are_refused(saved):
    _, path, _ = saved
    with pytest.raises(errors.WeightsError, match=r"\(3, 4\) in the file, \(3, 5\) here"):
        store.load_module(Net(5, rngs=nnx.Rngs(0)), path)


@pytest.mark.parametrize("cut", [0, 4, 40, -8])
def test_damaged_files_are_refused(saved, cut):
    net, path, digest = saved
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(errors.WeightsError, match="not a sound safetensors file"):
        store.load_module(net, path)
    with pytest.raises(errors.WeightsError, match="SHA-256 differs"):
        store.load_module(net, path, digest)


def test_missing_file_names_the_path(tmp_path):
    with pytest.raises(errors.WeightsError, match=r"nothing\.safetensors"):
        store.load_module(Net(rngs=nnx.Rngs(0)), tmp_path / "nothing.safetensors")


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    net, path, _ = saved
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save_module(net, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
