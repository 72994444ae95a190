"""ONNX Runtime says of images what the model says; what cannot be written is refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from ncap_jax import data, errors
from ncap_jax.winner import inference, onnx_file
from ncap_jax.zoo import MODELS
from tests.support.winners import make_winner, toy_winner


class Properties(list):
    """As much of a model's metadata as the writer uses."""

    def add(self, **entry: str) -> None:
        self.append(entry)


class Session(NamedTuple):
    """As much of ONNX Runtime's as the writer uses: it says what the model says, off by a bit."""

    offset: float

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert names == ["logits"]
        return [toy_winner().logits(feed["images"]) + self.offset]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for jax2onnx and ONNX Runtime."""
    told = SimpleNamespace(offset=0.0, failure=None, properties=Properties())

    def convert(function: Callable[..., Any], **options: Any) -> Any:
        if told.failure is not None:
            raise told.failure
        told.function, told.options = function, options
        return SimpleNamespace(
            graph=SimpleNamespace(value_info=["stale"]),
            metadata_props=told.properties,
            SerializeToString=lambda: b"content",
        )

    monkeypatch.setattr(
        onnx_file,
        "_libraries",
        lambda: (convert, lambda content, providers: Session(told.offset)),
    )
    return told


def test_the_whole_model_is_converted_with_its_class_names(
    tmp_path: pathlib.Path, libraries: SimpleNamespace
):
    winner = toy_winner()
    onnx_file.write(winner, tmp_path / "toy.onnx")
    assert (tmp_path / "toy.onnx").read_bytes() == b"content"
    (images,) = libraries.options["inputs"]
    assert images.shape[1:] == inference.samples(winner).shape[1:]
    found = jax.eval_shape(libraries.function, images)
    shapes = {name: str(array.shape) for name, array in found.items()}
    assert shapes == dict.fromkeys(inference.OUTPUTS, f"(batch, {winner.num_classes})")
    assert libraries.options["output_names"] == list(inference.OUTPUTS)
    entries = {entry["key"]: entry["value"] for entry in libraries.properties}
    assert json.loads(entries["class_names"]) == list(winner.class_names)
    assert entries["name"] == "toy_1"


def test_a_file_that_says_something_else_is_not_written(
    tmp_path: pathlib.Path, libraries: SimpleNamespace
):
    libraries.offset = 0.01
    with pytest.raises(errors.ModelError) as caught:
        onnx_file.write(toy_winner(), tmp_path / "toy.onnx")
    assert caught.value.cause == "the ONNX file gives logits that differ from the model's by 0.01"
    assert list(tmp_path.iterdir()) == []


def test_what_the_converter_lacks(tmp_path: pathlib.Path, libraries: SimpleNamespace):
    libraries.failure = NotImplementedError("no rule for fft\nat length")
    with pytest.raises(errors.ModelError) as caught:
        onnx_file.write(toy_winner(), tmp_path / "toy.onnx")
    assert caught.value.cause == "jax2onnx cannot convert toy_1: no rule for fft"
    assert caught.value.remedy == "Export it as stablehlo"


def test_other_arithmetic_is_refused(tmp_path: pathlib.Path):
    facts = dataclasses.replace(toy_winner().facts, dtype="bfloat16")
    with pytest.raises(errors.ModelError) as caught:
        onnx_file.write(dataclasses.replace(toy_winner(), facts=facts), tmp_path / "toy.onnx")
    assert caught.value.cause == (
        "toy_1 computes in bfloat16, which ONNX Runtime does not on most machines"
    )
    assert caught.value.remedy == "Export it as stablehlo, or train it with dtype=float32"


@pytest.mark.parametrize("name", ["jax2onnx", "onnxruntime"])
def test_without_the_extra(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    for each in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, each, SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.ConfigError) as caught:
        onnx_file.write(toy_winner(), tmp_path / "toy.onnx")
    assert caught.value.cause == f"the format onnx needs the package {name}"
    assert caught.value.remedy == "Run pip install 'ncap_jax[onnx]'"


# One network of each kind of layer; the size of its images where the training images are smaller.
NETWORKS = (
    "tiny_plain",
    "tiny_inverted",
    "tiny_senet",
    "tiny_convnext",
    "tiny_densenet",
    "cifar_resnet20",
    "squeezenet",
    "mobilenetv2",
    "resnet50v2",
    "inceptionv3",
    "xception",
    "convnext_tiny",
    "vit_ti16",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_agrees(name: str, tmp_path: pathlib.Path):
    """The writer compares the logits; here, the probabilities, and images resized on the way."""
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    digits = data.load_dataset("digits")
    weights = "pretrained" if name.startswith("tiny_") else "random"
    winner = make_winner(MODELS[name], digits, weights, temperature=1.5)
    onnx_file.write(winner, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    images = digits.images[:5]
    found = session.run(["probabilities"], {"images": images})[0]
    np.testing.assert_allclose(found, winner.predict_proba(images), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(digits.class_names)
