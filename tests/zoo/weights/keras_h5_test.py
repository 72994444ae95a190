"""Keras's legacy HDF5 files of every age; files that reach out or claim too much are refused."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.zoo.weights import keras_h5
from tests.support.weights_files import keras_arrays, write_h5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "{layer}/{layer}/{kind}:0"},
        {"style": "{layer}/{kind}"},
        {"group": "model_weights"},
        {"chunks": True},
    ],
    ids=["keras2", "nested", "keras3", "whole model", "split names"],
)
def test_every_age_of_keras_files(options: dict[str, Any], tmp_path: pathlib.Path):
    arrays = keras_arrays()
    write_h5(tmp_path / "w.h5", arrays, **options)
    read = keras_h5.read(tmp_path / "w.h5")
    assert set(read) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(read[key], value)


def test_keras_1_words(tmp_path: pathlib.Path):
    old = {"a/W": (3, 3, 3, 4), "a/b": (4,), "n/running_mean": (4,), "n/running_std": (4,)}
    values = {key: np.ones(shape, np.float32) for key, shape in old.items()}
    write_h5(tmp_path / "w.h5", values, style="{layer}_{kind}_1:0")
    read = keras_h5.read(tmp_path / "w.h5")
    assert set(read) == {"a/kernel", "a/bias", "n/moving_mean", "n/moving_variance"}


def test_unnamed_layers_are_numbered_by_creation_not_by_position(tmp_path: pathlib.Path):
    layers = ("conv2d_10", "conv2d_9", "batch_normalization", "conv2d_100", "conv2d_7x")
    write_h5(tmp_path / "w.h5", {f"{name}/bias": np.array([i]) for i, name in enumerate(layers)})
    read = {key: int(value[0]) for key, value in keras_h5.read(tmp_path / "w.h5").items()}
    assert read == {
        "conv2d_0/bias": 1,
        "conv2d_1/bias": 0,
        "conv2d_2/bias": 3,
        "batch_normalization_0/bias": 2,
        "conv2d_7x/bias": 4,
    }


def link_elsewhere(file: h5py.Group) -> None:
    file["other"] = h5py.ExternalLink("secret.h5", "/data")


def store_elsewhere(file: h5py.Group) -> None:
    file.create_dataset("other", (4,), "u1", external=[("secret.txt", 0, 4)])


def map_elsewhere(file: h5py.Group) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("secret.h5", "data", (4,))
    file.create_virtual_dataset("other", layout)


def claim_much(file: h5py.Group) -> None:
    file.create_dataset("other", (1 << 20, 1 << 20), "f8", chunks=(1, 1024))


def hold_text(file: h5py.Group) -> None:
    file["other"] = np.array([b"text"])


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (link_elsewhere, "'a/bias' is a ExternalLink"),
        (store_elsewhere, "'/a/bias' lies in another file"),
        (map_elsewhere, "'/a/bias' lies in another file"),
        (claim_much, "'/a/bias' claims 8796093022208 bytes"),
        (hold_text, "'/a/bias' is not an array of numbers"),
    ],
)
def test_hdf5_that_reaches_out_is_refused(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    put: Callable[[h5py.Group], None],
    reason: str,
):
    """No bytes of the reader's other files, and no more memory than the file can be worth."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_bytes(b"key!")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.arange(4, dtype=np.uint8)
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"bias"]
        put(group)
        group.move("other", "bias")
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert refusal.value.cause == f"{path} is not safe to read: {reason}"
    assert refusal.value.remedy == "Download it again from its publisher"


def test_hdf5_without_weights_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert refusal.value.cause == f"{path} has no attribute layer_names"
    assert "legacy .h5 format" in refusal.value.remedy


def test_a_weight_of_unknown_kind_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "w.h5"
    write_h5(path, {"lstm/recurrent_gate": np.zeros(3)})
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert "'lstm/recurrent_gate:0', which is not a kind of weight" in refusal.value.cause
    assert "convolution, dense and batch-norm layers" in refusal.value.remedy


def test_one_array_under_two_names_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "w.h5"
    write_h5(path, {"a/kernel": np.zeros(3), "a/W": np.zeros(3)})
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert refusal.value.cause == f"{path} contains a/kernel twice"
    assert refusal.value.remedy == "Give the weights file of a single, flat model"


def test_other_files_are_refused(tmp_path: pathlib.Path):
    path = tmp_path / "w.h5"
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert str(refusal.value) == f"the weights file {path} does not exist. Check the path."
    path.write_bytes(b"<html>")
    with pytest.raises(errors.WeightsError) as refusal:
        keras_h5.read(path)
    assert refusal.value.cause == f"{path} is not an HDF5 file (it starts with b'<html>')"
    assert "failed download" in refusal.value.remedy
