"""Weights in timm's form: from a folder, from the Hub, of another architecture; classifiers."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from ncap_jax import errors
from ncap_jax.zoo import find_model, functional, hub, load_model
from ncap_jax.zoo.weights import places, store
from tests.support.torch_nets import needs_timm

pytestmark = needs_timm
SMALL = "timm:test_vit"  # 0.3 million parameters


@pytest.fixture
def published(tmp_path: pathlib.Path) -> tuple[pathlib.Path, Any]:
    """A folder with a file as timm publishes it, classifier included, and its module."""
    import timm

    module = timm.create_model("test_vit")
    content = {name: array.numpy() for name, array in module.state_dict().items()}
    file = tmp_path / "test_vit.r160_in1k" / "model.safetensors"
    file.parent.mkdir()
    safetensors.numpy.save_file(content, file)
    return tmp_path, module


def test_weights_from_a_folder(published: tuple[pathlib.Path, Any]) -> None:
    folder, module = published
    assert places.locate(find_model(SMALL), folder).kind == "folder"
    loaded = load_model(SMALL, weights_dir=folder)
    params = functional.split(loaded)[1]["params"]
    for name, parameter in module.named_parameters():
        if not name.startswith("head."):
            np.testing.assert_array_equal(params[name], parameter.detach().numpy())
    # The same in our own form, as the product saves it.
    ours = folder / "ours.safetensors"
    store.save_module(loaded, ours)
    again = functional.split(load_model(SMALL, ours))[1]["params"]
    jax.tree.map(np.testing.assert_array_equal, dict(params), dict(again))


@pytest.mark.parametrize("change", ["left over", "missing", "shape"])
def test_weights_of_another_architecture(published: tuple[pathlib.Path, Any], change: str) -> None:
    folder, module = published
    content = {name: array.numpy() for name, array in module.state_dict().items()}
    name = "blocks.0.attn.qkv.weight"
    if change == "left over":
        content["extra.weight"] = content[name]
    elif change == "missing":
        del content[name]
    else:
        content[name] = content[name][:3].copy()
    safetensors.numpy.save_file(content, folder / "other.safetensors")
    with pytest.raises(errors.WeightsError, match="does not fit timm:test_vit"):
        load_model(SMALL, folder / "other.safetensors")


def test_a_file_of_the_hub_is_checked_against_its_digest(
    published: tuple[pathlib.Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder, _ = published
    file = folder / "test_vit.r160_in1k" / "model.safetensors"
    asked: list[str] = []
    good = folder / hub.digest(file)
    good.write_bytes(file.read_bytes())

    def fetch(repository: str, *_: Any, **__: Any) -> str:
        asked.append(repository)
        return str(good)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    load_model(SMALL)
    assert asked == ["timm/test_vit.r160_in1k"]
    good.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(errors.WeightsError, match="is not the published file"):
        load_model(SMALL)


@pytest.mark.parametrize(
    "name", ["test_resnet", pytest.param("levit_128s", marks=pytest.mark.slow)]
)
def test_a_classifier_is_put_under_its_name(name: str) -> None:
    """LeViT has two, each behind batch norm, whose answers are averaged."""
    import timm

    from ncap_jax.zoo import timm_networks
    from ncap_jax.zoo.torch_models import arrays_of

    module = timm.create_model(name, num_classes=0)
    groups = zip(("params.", "state."), arrays_of(module))
    arrays = {f"{group}{n}": array for group, part in groups for n, array in part.items()}
    kernel = np.random.default_rng(0).normal(size=(module.num_features, 3)).astype(np.float32)
    named = timm_networks.with_classifier(name, arrays, kernel, np.ones(3, np.float32))
    heads = [n for n, array in named.items() if array.shape == (3, module.num_features)]
    assert len(heads) == (2 if name.startswith("levit") else 1)
    for head in heads:
        np.testing.assert_array_equal(named[head], kernel.T)


@pytest.mark.slow
def test_what_does_not_end_in_a_linear_classifier_is_refused() -> None:
    import timm

    from ncap_jax.zoo import timm_networks
    from ncap_jax.zoo.torch_models import arrays_of

    module = timm.create_model("crossvit_tiny_240", num_classes=0)
    groups = zip(("params.", "state."), arrays_of(module))
    arrays = {f"{group}{n}": array for group, part in groups for n, array in part.items()}
    kernel = np.ones((module.num_features, 3), np.float32)
    with pytest.raises(errors.ModelError, match="does not end in a linear classifier"):
        timm_networks.with_classifier("crossvit_tiny_240", arrays, kernel, np.ones(3, np.float32))
