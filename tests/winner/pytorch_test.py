"""PyTorch's implementations load what was written, and say what the model says."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ncap_jax import data, errors
from ncap_jax.types import Dataset, ModelSpec
from ncap_jax.winner import package, pytorch
from ncap_jax.winner.facts import Architecture
from ncap_jax.winner.model import Winner
from ncap_jax.zoo import MODELS, find_model, functional
from ncap_jax.zoo.weights import keymap, store
from tests.support.small import small_digits
from tests.support.torch_nets import needs_timm
from tests.support.winners import make_winner, tiny_winner

PUBLISHED = [spec for spec in MODELS.values() if spec.layout.convention == "torch"]


@functools.cache
def cifar() -> Winner:
    return make_winner(MODELS["cifar_resnet20"])


def test_the_weights_are_those_that_reading_would_give(tmp_path: pathlib.Path):
    winner = cifar()
    pytorch.write(winner, tmp_path / "model")
    arrays = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    output = winner.params["head"]["output"]
    np.testing.assert_array_equal(arrays.pop("linear.weight"), np.asarray(output["kernel"][0]).T)
    np.testing.assert_array_equal(arrays.pop("linear.bias"), output["bias"][0])
    backbone = functional.merge(
        winner.network.backbone, winner.params["backbone"], winner.state["backbone"]
    )
    again = keymap.rename(backbone, arrays, "torch")
    own = store.state_arrays(backbone)
    assert again.keys() == own.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(again[name], array)


def test_names_and_shapes_are_those_of_the_published_file(shared_data: pathlib.Path):
    """Apart from PyTorch's counters of batches, which are no weights."""
    file = shared_data / "weights" / "cifar10_resnet20.safetensors"
    published = safetensors.numpy.load_file(file)
    expected = {n: a.shape for n, a in published.items() if not n.endswith("num_batches_tracked")}
    found = pytorch.weights(cifar(), MODELS["cifar_resnet20"])
    assert {name: array.shape for name, array in found.items()} == {
        **expected,
        "linear.weight": (cifar().num_classes, 64),
        "linear.bias": (cifar().num_classes,),
    }


def test_the_description_is_in_the_form_of_timm(tmp_path: pathlib.Path):
    winner = cifar()
    pytorch.write(winner, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {
        "architecture": "cifar_resnet20",
        "num_classes": winner.num_classes,
        "label_names": list(winner.class_names),
        "model_args": {},
        "pretrained_cfg": {
            "mean": pytest.approx([0.485, 0.456, 0.406]),
            "std": pytest.approx([0.229, 0.224, 0.225]),
            "num_classes": winner.num_classes,
            "input_size": [3, 32, 32],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "classifier": "linear",
        },
    }


def test_a_transformer_is_described_with_the_size_of_its_images():
    """Its pixels are x / 127.5 - 1, which is the same as (x / 255 - 0.5) / 0.5."""
    facts = cifar().facts
    pixels = dataclasses.replace(facts.preprocessing, mode="tf", input_size=96)
    winner = dataclasses.replace(cifar(), facts=dataclasses.replace(facts, preprocessing=pixels))
    found = pytorch.configuration(winner, MODELS["vit_ti16"])
    assert found["architecture"] == "vit_tiny_patch16_224"
    assert found["model_args"] == {"img_size": 96}
    assert found["pretrained_cfg"]["mean"] == found["pretrained_cfg"]["std"] == [0.5] * 3


def test_what_pytorch_has_not_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(errors.ModelError) as caught:
        pytorch.write(tiny_winner(), tmp_path / "model")
    assert caught.value.cause == (
        f"{tiny_winner().name} has no implementation with the same layers and names in timm or "
        "torchvision"
    )
    assert caught.value.remedy.startswith(
        "Export it as onnx or stablehlo; the format timm is for alexnet, cifar_resnet20, "
    )
    assert list(tmp_path.iterdir()) == []


def test_pixels_in_another_order_are_refused():
    facts = cifar().facts
    pixels = dataclasses.replace(facts.preprocessing, mode="caffe")
    winner = dataclasses.replace(cifar(), facts=dataclasses.replace(facts, preprocessing=pixels))
    with pytest.raises(errors.ModelError) as caught:
        pytorch.configuration(winner, MODELS["cifar_resnet20"])
    assert caught.value.cause == (
        "cifar_resnet20 takes pixels in the order blue, green, red, which timm does not give"
    )
    assert caught.value.remedy == "Export it as onnx or stablehlo"


@pytest.mark.slow
@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_every_weight_of_every_such_model_has_a_published_name(spec: ModelSpec):
    module: Any = functional.build_abstractly(spec.build)
    paths = {".".join(map(str, path)) for path in weights_of(module)}
    assert {path for path, _ in keymap.published_names(module, (), "torch").values()} == paths


def weights_of(module: Any) -> list[tuple[Any, ...]]:
    """Paths of parameters and statistics; random streams are neither."""
    _, params, state = functional.split(module)
    return [path for tree in (params, state) for path in below(tree) if "rngs" not in path]


def below(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(tree, dict):
        return [above]
    return [path for key, value in tree.items() for path in below(value, (*above, key))]


# ---- against PyTorch itself ---------------------------------------------------------------------


def photos(side: int) -> Dataset:
    """Images of noise that vary slowly, as photos do."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(x).resize((side, side))) for x in coarse]
    given = Dataset(np.stack(images), np.arange(24) % 3, class_names=("ape", "bee", "cow"))
    return data.load_dataset(given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"), [("vit_ti16", 224), ("vit_ti16", 96), ("convnext_tiny", 96)]
)
def test_timm_says_the_same(name: str, side: int, tmp_path: pathlib.Path):
    """Of a file, which timm decodes and scales itself, in a model that timm makes of the folder."""
    timm = pytest.importorskip("timm", reason="the oracle: pip install timm")
    torch = pytest.importorskip("torch", reason="the oracle: the extra [torch]")
    winner = make_winner(MODELS[name], photos(side), input_size=side)
    pytorch.write(winner, tmp_path / "model")
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    arrays = torch_arrays(torch, tmp_path / "model")
    model.load_state_dict(arrays, strict=True)
    assert model.pretrained_cfg["label_names"] == list(winner.class_names)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    file = tmp_path / "photo.png"
    Image.fromarray(photos(side).images[0]).resize((130, 201)).save(file)
    with torch.no_grad():
        found = model(transform(Image.open(file).convert("RGB"))[None]).numpy()
    np.testing.assert_allclose(found, winner.logits(file), atol=1e-4)


@pytest.mark.slow
def test_torchvision_says_the_same(tmp_path: pathlib.Path):
    torch = pytest.importorskip("torch", reason="the oracle: the extra [torch]")
    torchvision = pytest.importorskip("torchvision", reason="the oracle: pip install torchvision")
    winner = make_winner(MODELS["alexnet"], photos(96), input_size=96)
    pytorch.write(winner, tmp_path)
    model = torchvision.models.alexnet(num_classes=3).eval()
    model.load_state_dict(torch_arrays(torch, tmp_path), strict=True)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    mean, std = (np.array(config["pretrained_cfg"][key]) for key in ("mean", "std"))
    images = photos(96).images[:4]
    pixels = ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        found = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, winner.logits(images), atol=1e-4)


def torch_arrays(torch: Any, folder: pathlib.Path) -> dict[str, Any]:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@needs_timm
def test_timm_loads_its_own_model_and_says_the_same(tmp_path: pathlib.Path):
    import timm
    import torch

    winner = make_winner(find_model("timm:test_vit"), input_size=32)
    pytorch.write(winner, tmp_path / "timm")
    winner.save(tmp_path / "package")
    again = package.load(tmp_path / "package")
    assert again.facts.architecture == Architecture("timm", "test_vit.r160_in1k")
    images = small_digits().images[:3]
    logits = again.logits(images)
    np.testing.assert_array_equal(logits, winner.logits(images))
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    x = np.moveaxis(np.asarray(winner.network.preprocess(images)), -1, 1)
    with torch.no_grad():
        theirs = model(torch.tensor(x)).numpy()
    # Sums in another order (docs/numerics.md).
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * max(1, np.max(np.abs(theirs))))
