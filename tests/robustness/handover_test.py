"""From a folder of photos to what a user holds in the end: real images, published weights.

Each model is ranked and finished by the product. What its package, a fresh process and the exported
files say of the test part is compared with what the finish wrote down.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from jax import export
from PIL import Image

import ncap_jax as ncap
from ncap_jax.winner.images import Form, collect
from ncap_jax.winner.model import Winner
from tests.support import torch_resnet
from tests.support.command_line import in_process

pytestmark = pytest.mark.slow

# Of logits, relative to the largest where that is above 1: docs/numerics.md.
TOLERANCE = 1e-4


class Finished(NamedTuple):
    """A run's winner, as it was saved, and the photos that it was tested on."""

    folder: pathlib.Path
    photos: pathlib.Path

    @property
    def winner(self) -> Winner:
        """Read from its package."""
        return ncap.load(self.folder)

    @property
    def tested(self) -> list[pathlib.Path]:
        """Every file of the test part, the classes side by side."""
        return sorted((self.photos / "test").glob("*/*"))

    def pixels(self, count: int = 24) -> np.ndarray:
        """Some images of the test part, from all classes, as the model decodes them."""
        form = self.winner.facts.preprocessing
        some = self.tested[:: len(self.tested) // count]
        pictures = collect(some)
        return np.stack([each.read(Form(form.image_size, form.channels)) for each in pictures])


def finished(
    shared: pathlib.Path,
    folder: pathlib.Path,
    models: list[str],
    sides: tuple[int, int],
    **options: Any,
) -> Finished:
    """Rank models on the birds, and finish them; `sides` are those of the photos and the input."""
    photos = shared / "birds" / "birds6"
    config = ncap.RankConfig(
        epochs=1,
        input_size=sides[1],
        beta_eff="off",
        weights_dir=str(shared / "weights"),
        **options,
    )
    data_config = ncap.DataConfig(max_train=384, max_validation=64, image_size=sides[0])
    ncap.rank_models(
        models, str(photos), config, folder, data_config=data_config, show_progress=False
    )
    ncap.finish(folder, config=ncap.FinishConfig(max_epochs=2), show_progress=False)
    return Finished(folder / "winner", photos)


@pytest.fixture(scope="module")
def mobilenet(shared_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The better of two MobileNets with weights of ImageNet."""
    folder = tmp_path_factory.mktemp("mobilenet") / "run"
    return finished(shared_data, folder, ["mobilenet_025", "mobilenet_025_folded"], (48, 40))


# ---- what the package says ----------------------------------------------------------------------


def test_a_fresh_process_reproduces_the_test_accuracy(mobilenet: Finished, tmp_path: pathlib.Path):
    """Of labels alone, and as `predict` prints them for the folder of the test part."""
    test = str(mobilenet.photos / "test")
    said = in_process("predict", str(mobilenet.folder), test, "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    answers = json.loads(said.out)
    stated = json.loads((mobilenet.folder / "model.json").read_text(encoding="utf-8"))
    figures = stated["metrics"]["test"]
    assert sorted(answer["image"] for answer in answers) == [str(p) for p in mobilenet.tested]
    right = [pathlib.Path(answer["image"]).parent.name == answer["label"] for answer in answers]
    assert len(right) == figures["count"] == 203
    assert np.mean(right) == figures["accuracy"]
    # Chance gives a sixth: the model has learned what it is tested on.
    assert figures["accuracy"] > 0.5
    wrong = [answer["probability"] for answer, fits in zip(answers, right) if not fits]
    worst = [mistake["probability"] for mistake in figures["mistakes"]]
    np.testing.assert_allclose(sorted(wrong, reverse=True)[: len(worst)], worst, rtol=1e-5)


def test_evaluation_gives_every_figure_again(mobilenet: Finished):
    winner = mobilenet.winner
    assert winner.evaluate(str(mobilenet.photos)) == winner.facts.metrics["test"]


def test_no_bird_is_in_two_parts(mobilenet: Finished):
    assert mobilenet.winner.facts.leaks == 0
    assert mobilenet.winner.facts.data["test images"] == 203


# ---- what other programs say --------------------------------------------------------------------


def test_the_stablehlo_file_says_the_same(mobilenet: Finished, tmp_path: pathlib.Path):
    pytest.importorskip("flatbuffers", reason="what jax.export writes files with")
    path = ncap.export(mobilenet.folder, "stablehlo", tmp_path / "birds.stablehlo")
    loaded = export.deserialize(bytearray(path.read_bytes()))
    compare(loaded.call, mobilenet)


def test_onnx_runtime_says_the_same(mobilenet: Finished, tmp_path: pathlib.Path):
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    path = ncap.export(mobilenet.folder, "onnx", tmp_path / "birds.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = ["logits", "probabilities"]
    compare(lambda images: dict(zip(names, session.run(names, {"images": images}))), mobilenet)
    # As docs/export.md decodes them.
    height, width = mobilenet.winner.facts.preprocessing.image_size
    some = mobilenet.tested[::40]
    pixels = [Image.open(p).convert("RGB").resize((width, height), Image.BICUBIC) for p in some]
    (found,) = session.run(["logits"], {"images": np.stack([np.asarray(p) for p in pixels])})
    same(found, mobilenet.winner.logits(some))


def compare(run: Any, what: Finished) -> None:
    """The logits and probabilities of a file and of the model, on images of the test part."""
    images, winner = what.pixels(), what.winner
    found = run(images)
    same(found["logits"], winner.logits(images))
    same(found["probabilities"], winner.predict_proba(images))


def same(found: Any, expected: np.ndarray) -> None:
    """Close, of images that are told apart."""
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE
    assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def test_the_publishers_network_says_the_same(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    """In PyTorch, which loads the finished weights strictly."""
    torch = pytest.importorskip("torch", reason="the oracle: the extra [torch]")
    what = finished(shared_data, tmp_path / "run", ["cifar_resnet20"], (32, 32))
    folder = ncap.export(what.folder, "timm", tmp_path / "torch")
    model = torch_resnet.resnet20(torch, what.winner.num_classes)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model.load_state_dict(tensors, strict=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    images = what.pixels()
    scaled = (images / 255 - np.array(config["mean"])) / np.array(config["std"])
    pixels = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        found = model(pixels).numpy()
    same(found, what.winner.logits(images))


def test_timm_says_the_same(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    """A transformer from random weights: none of timm's are at hand."""
    timm = pytest.importorskip("timm", reason="the oracle: pip install timm")
    torch = pytest.importorskip("torch", reason="the oracle: the extra [torch]")
    what = finished(shared_data, tmp_path / "run", ["vit_ti16"], (32, 32), weights="random")
    folder = ncap.export(what.folder, "timm", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model.load_state_dict(tensors, strict=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = what.pixels()
    with torch.no_grad():
        found = model(torch.stack([transform(Image.fromarray(x)) for x in images])).numpy()
    same(found, what.winner.logits(images))
    assert model.pretrained_cfg["label_names"] == list(what.winner.class_names)
