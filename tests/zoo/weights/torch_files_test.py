"""PyTorch checkpoints are read by its weights-only loader, or not at all."""

from __future__ import annotations

import pathlib
import pickle
import sys
import types
import zipfile
from typing import Any

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.zoo.weights import torch_files
from tests.support.weights_files import keras_arrays


class Tensor:
    """As much of `torch.Tensor` as the reader uses."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for PyTorch: what its loader is to return or raise, and what it was asked."""
    told: dict[str, Any] = {}

    def load(path: pathlib.Path, **options: Any) -> Any:
        told["options"] = options
        if isinstance(told["content"], Exception):
            raise told["content"]
        return told["content"]

    module = types.SimpleNamespace(load=load, Tensor=Tensor)
    monkeypatch.setitem(sys.modules, "torch", module)
    return told


def test_a_state_dict_is_unwrapped(loads: dict[str, Any]):
    kernel = np.arange(6.0).reshape(2, 3)
    loads["content"] = {"state_dict": {"module.d.weight": Tensor(kernel)}, "best": 91.8}
    read = torch_files.read("w.pth")
    assert list(read) == ["d.weight"]
    np.testing.assert_array_equal(read["d.weight"], kernel)
    assert loads["options"] == {"map_location": "cpu", "weights_only": True}


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "b"}}])
def test_anything_but_tensors_is_refused(loads: dict[str, Any], content: Any):
    loads["content"] = content
    with pytest.raises(errors.WeightsError) as refusal:
        torch_files.read("w.pth")
    assert refusal.value.cause == "w.pth does not hold a dictionary of tensors"
    assert refusal.value.remedy == "Give a checkpoint of a model's state_dict"


def test_what_the_loader_refuses_is_refused(loads: dict[str, Any]):
    loads["content"] = pickle.UnpicklingError("Weights only load failed\nand much more")
    with pytest.raises(errors.WeightsError) as refusal:
        torch_files.read("w.pth")
    assert refusal.value.cause == (
        "w.pth is damaged, or holds more than tensors: Weights only load failed"
    )
    assert "Download it again from its publisher" in refusal.value.remedy


def test_pytorch_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.WeightsError) as refusal:
        torch_files.read("w.pth")
    assert refusal.value.cause == (
        "w.pth is a PyTorch checkpoint, and PyTorch, which reads it safely, is not installed"
    )
    assert refusal.value.remedy.startswith("Run pip install 'ncap_jax[torch]', or convert")


def test_genuine_pytorch(tmp_path: pathlib.Path):
    torch = pytest.importorskip("torch", reason="reads .pth files: the optional extra [torch]")
    kernel = keras_arrays()["d/kernel"].T
    torch.save({"state_dict": {"module.d.weight": torch.tensor(kernel)}}, tmp_path / "w.pth")
    np.testing.assert_array_equal(torch_files.read(tmp_path / "w.pth")["d.weight"], kernel)


class Harmful:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: pathlib.Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize("form", ["bare", "zip"])
def test_pickled_code_never_runs(form: str, tmp_path: pathlib.Path):
    # With PyTorch its loader refuses it; without PyTorch nothing else may unpickle.
    content = pickle.dumps({"weight": Harmful(tmp_path / "harm")}, protocol=2)
    path = tmp_path / "w.pth"
    if form == "bare":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")
    with pytest.raises(errors.WeightsError):
        torch_files.read(path)
    assert not (tmp_path / "harm").exists()
