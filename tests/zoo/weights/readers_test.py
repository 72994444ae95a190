"""Weights files of all formats: told by their content, refused when wrong or of another model."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

from ncap_jax import errors
from ncap_jax.zoo.weights import keras_h5, readers, store
from tests.support.weights_files import SPEC, check_filled, keras_arrays, net, write_h5


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return keras_arrays()


def test_a_published_file_with_its_classifier(
    arrays: dict[str, np.ndarray], tmp_path: pathlib.Path
):
    arrays["predictions/kernel"] = np.zeros((6, 10), np.float32)
    write_h5(tmp_path / "top.h5", arrays)
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "top.h5")
    check_filled(module, arrays)


def test_left_overs_are_refused(arrays: dict[str, np.ndarray], tmp_path: pathlib.Path):
    arrays["predictions_too/kernel"] = np.zeros((6, 10), np.float32)
    path = tmp_path / "more.h5"
    write_h5(path, arrays)
    with pytest.raises(errors.WeightsError) as refusal:
        readers.fill_from_file(net(), SPEC, path)
    assert refusal.value.cause == f"{path} does not fit Net: 1 left over (predictions_too/kernel)"
    assert refusal.value.remedy == "Give the file that belongs to this architecture"


def test_unfilled_and_wrong_shapes_are_reported_together(
    arrays: dict[str, np.ndarray], tmp_path: pathlib.Path
):
    del arrays["b/beta"]
    arrays["d/kernel"] = np.zeros((6, 5), np.float32)
    path = tmp_path / "w.h5"
    write_h5(path, arrays)
    with pytest.raises(errors.WeightsError) as refusal:
        readers.fill_from_file(net(), SPEC, path)
    assert refusal.value.cause == (
        f"{path} does not fit Net: 1 unfilled (stem.norm.bias); "
        "dense.kernel: (6, 5) in the file, (5, 6) here"
    )


def test_published_and_own_safetensors(arrays: dict[str, np.ndarray], tmp_path: pathlib.Path):
    safetensors.numpy.save_file(arrays, tmp_path / "published.safetensors")
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "published.safetensors")
    check_filled(module, arrays)
    digest = store.save_module(module, tmp_path / "own.safetensors")
    again = net()
    readers.fill_from_file(again, SPEC, tmp_path / "own.safetensors", digest)
    check_filled(again, arrays)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the weights file {} is empty"),
        (b"<!DOCTYPE html>", "{} is a web page (it starts with b'<!DOCTYPE html>')"),
        (b"P6 not weights", "{} is not a weights file (it starts with b'P6 not weights')"),
        (b"\x10\0\0\0\0\0\0\0{not json", "{} is not an intact safetensors file"),
        (keras_h5.SIGNATURE + b"and then rubbish" * 9, "the weights file {} is damaged"),
        (b"PK\x03\x04 and so on", "{} is "),  # PyTorch's, refused with it and without it
        (b"\x80\x02 and so on", "{} is "),
    ],
    ids=["empty", "web page", "image", "safetensors", "hdf5", "zip", "pickle"],
)
def test_damaged_files_are_refused(content: bytes, cause: str, tmp_path: pathlib.Path):
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(errors.WeightsError) as refusal:
        readers.fill_from_file(net(), SPEC, path)
    assert refusal.value.cause.startswith(cause.format(path))
    assert refusal.value.remedy


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(
    kept: float, arrays: dict[str, np.ndarray], tmp_path: pathlib.Path
):
    write_h5(tmp_path / "w.h5", arrays)
    store.save_module(net(), tmp_path / "w.safetensors")
    for name in ("w.h5", "w.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(kept * len(content))])
        with pytest.raises(errors.WeightsError):
            readers.fill_from_file(net(), SPEC, tmp_path / name)


def test_a_missing_file_is_named(tmp_path: pathlib.Path):
    path = tmp_path / "nowhere.h5"
    with pytest.raises(errors.WeightsError) as refusal:
        readers.read(path)
    assert refusal.value.cause == f"cannot read the weights file {path}: No such file or directory"
    assert refusal.value.remedy == "Check the path and its permissions"


def test_numpy_pickles_are_refused(tmp_path: pathlib.Path):
    np.save(tmp_path / "w.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(errors.WeightsError) as refusal:
        readers.read(tmp_path / "w.npy")
    assert "is not a weights file" in refusal.value.cause


def write_torch(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def write_safetensors(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(arrays, path)


@pytest.mark.parametrize("write", [write_h5, write_torch, write_safetensors])
def test_weights_that_are_not_numbers_are_refused_in_every_format(
    write: Callable[[pathlib.Path, dict[str, np.ndarray]], None],
    arrays: dict[str, np.ndarray],
    tmp_path: pathlib.Path,
):
    arrays["a/kernel"][0, 0, 0, 0] = np.nan
    path = tmp_path / "w"
    write(path, arrays)
    with pytest.raises(errors.WeightsError) as refusal:
        readers.fill_from_file(net(), SPEC, path)
    assert refusal.value.cause == f"{path}: 1 of the 108 values of stem.conv.kernel are not finite"
    assert refusal.value.remedy == (
        "Give intact weights; a training that diverged leaves such values"
    )


def test_a_classifier_that_is_left_out_may_hold_anything(
    arrays: dict[str, np.ndarray], tmp_path: pathlib.Path
):
    arrays["predictions/kernel"] = np.full((6, 10), np.nan, np.float32)
    write_h5(tmp_path / "top.h5", arrays)
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "top.h5")
    check_filled(module, arrays)
