"""Weights on disk: what is saved is what is loaded, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ncap_jax import errors
from ncap_jax.zoo.weights import store


class Net(nnx.Module):
    def __init__(self, width: int = 4, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(3, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


Saved = tuple[Net, pathlib.Path, str]


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> Saved:
    net = Net(rngs=nnx.Rngs(0))
    net.norm.mean[...] = np.arange(4.0)
    path = tmp_path / "net.safetensors"
    return net, path, store.save_module(net, path)


def test_round_trip(saved: Saved):
    net, path, digest = saved
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
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


def test_an_abstract_module_is_filled(saved: Saved):
    net, path, _ = saved
    other = nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(1)))
    store.load_module(other, path)
    np.testing.assert_array_equal(other.dense.kernel[...], net.dense.kernel[...])


def test_values_take_the_modules_dtype(saved: Saved):
    net, _, _ = saved
    arrays = {name: value.astype(np.float64) for name, value in store.state_arrays(net).items()}
    with jax.enable_x64(True):
        store.assign(net, arrays, "here")
    assert net.dense.kernel.dtype == np.float32


def test_both_sides_are_reported(saved: Saved):
    net, path, _ = saved
    arrays = store.state_arrays(net)
    arrays["stranger"] = arrays.pop("dense.kernel")
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(net, path)
    assert refusal.value.cause == (
        f"{path} does not fit Net: 1 left over (stranger); 1 unfilled (dense.kernel)"
    )
    assert refusal.value.remedy == "Give the file that belongs to this architecture"


def test_other_shapes_are_refused(saved: Saved):
    _, path, _ = saved
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(Net(5, rngs=nnx.Rngs(0)), path)
    assert "dense.kernel: (3, 4) in the file, (3, 5) here" in refusal.value.cause


@pytest.mark.parametrize("cut", [0, 4, 40, -8])
def test_damaged_files_are_refused(saved: Saved, cut: int):
    net, path, digest = saved
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(net, path)
    assert refusal.value.cause.startswith(f"{path} is not an intact safetensors file: ")
    assert refusal.value.remedy == "Download or copy it again"
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(net, path, digest)
    assert refusal.value.cause == f"{path} is damaged: its SHA-256 is not the recorded one"
    assert refusal.value.remedy == "Download or copy it again"


INTACT = "Give intact weights; a training that diverged leaves such values"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_first_array(saved: Saved, wrong: float):
    net, path, _ = saved
    arrays = store.state_arrays(net)
    arrays["dense.kernel"] = arrays["dense.kernel"].copy()
    arrays["dense.kernel"][0, :2] = wrong
    arrays["norm.var"] = np.full(4, wrong, np.float32)
    safetensors.numpy.save_file(arrays, path)
    before = store.state_arrays(net)
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(net, path)
    assert refusal.value.cause == f"{path}: 2 of the 12 values of dense.kernel are not finite"
    assert refusal.value.remedy == INTACT
    for name, value in store.state_arrays(net).items():
        np.testing.assert_array_equal(value, before[name])


def test_values_too_large_for_the_module_are_refused(saved: Saved):
    net, _, _ = saved
    arrays = {name: value.astype(np.float64) for name, value in store.state_arrays(net).items()}
    arrays["norm.mean"][1] = 1e39
    with pytest.raises(errors.WeightsError) as refusal:
        store.assign(net, arrays, "here")
    assert refusal.value.cause == "here: 1 of the 4 values of norm.mean are not finite"
    assert refusal.value.remedy == INTACT


def test_whole_numbers_are_finite():
    store.check_finite({"count": np.arange(3), "none": np.zeros((0, 2))}, "here")
    with pytest.raises(errors.WeightsError) as refusal:
        store.check_finite({"half": np.array([1, np.nan]).astype(jnp.bfloat16)}, "here")
    assert refusal.value.cause == "here: 1 of the 2 values of half are not finite"


def test_a_missing_file_is_named(tmp_path: pathlib.Path):
    path = tmp_path / "nothing.safetensors"
    with pytest.raises(errors.WeightsError) as refusal:
        store.load_module(Net(rngs=nnx.Rngs(0)), path)
    assert refusal.value.cause == f"cannot read the weights file {path}: No such file or directory"
    assert refusal.value.remedy == "Check the path and its permissions"


def test_a_failed_write_leaves_the_old_file(saved: Saved, monkeypatch: pytest.MonkeyPatch):
    net, path, _ = saved
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save_module(net, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
