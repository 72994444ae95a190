"""Checkpoints of the Hugging Face Hub, from a local server that speaks its protocol."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import pathlib
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.numpy

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, find_models, hub, load_model, registry
from ncap_jax.zoo.weights import store

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs ncap_jax[hf]"
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(http.server.BaseHTTPRequestHandler):
    """/<owner>/<repository>/resolve/<revision>/<file>, HEAD and GET."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> bytes:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = self.files.get(f"{repository}/{rest.partition('/')[2]}")
        self.send_response(200 if content is not None else 404)
        content = content or b""
        if not content:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_GET(self) -> None:
        self.wfile.write(self.do_HEAD())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[dict[str, bytes]]:
    """Files of the hub: a dictionary `owner/repository/file` -> bytes."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    monkeypatch.setattr(Server, "files", {})
    registry.find_hub_model.cache_clear()
    yield Server.files
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf://timm/vgg16.tv_in1k", ("timm/vgg16.tv_in1k", None, None)),
        ("hf://a/b@v1.0", ("a/b", "v1.0", None)),
        ("hf://a/b@main/sub/x.safetensors", ("a/b", "main", "sub/x.safetensors")),
        ("hf://a/b/x.safetensors", ("a/b", None, "x.safetensors")),
    ],
)
def test_names(name: str, parts: tuple[str | None, ...]):
    assert hub.parse(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        "hf://vgg16",
        "hf:/a/b",
        "hf://a/b@",
        "hf://a/b c",
        "a/b",
        "hf://a/b/../../x",
        "hf://a/b@main/../x",
        "hf://a/b/x/..",
        "hf://a/b/./x",
        "hf://a/b//x",
        "hf://a/b/x/",
        "hf://a/..",
        "hf://../b",
        "hf://a/b@..",
        "hf://a/\N{LATIN SMALL LETTER E WITH ACUTE}",
        "hf://a/b\n",
    ],
)
def test_other_names_are_refused(name: str):
    with pytest.raises(errors.ModelError) as refusal:
        hub.parse(name)
    assert refusal.value.cause == f"{name!r} does not name a repository of the Hugging Face Hub"
    assert refusal.value.remedy.startswith("Write hf://owner/repository, ")


@needs_hub
def test_our_own_weights_from_the_hub(site: dict[str, bytes]):
    """A user's fine-tuned tiny model, as `save_module` wrote it."""
    original = load_model("tiny_plain_wide", weights=None, seed=9)
    arrays = store.state_arrays(original)
    site["me/mine/model.safetensors"] = safetensors.numpy.save(arrays)
    loaded = store.state_arrays(load_model("tiny_plain_wide", weights="hf://me/mine"))
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


@needs_hub
def test_a_file_is_fetched_once_and_then_offline(
    site: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    site["me/mine/model.safetensors"] = b"x" * 100
    path = hub.fetch("hf://me/mine")
    assert path.read_bytes() == b"x" * 100
    site.clear()
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    assert hub.fetch("hf://me/mine") == path
    with pytest.raises(errors.WeightsError) as refusal:
        hub.fetch("hf://me/other")
    assert "cannot fetch model.safetensors of me/other from the Hugging" in refusal.value.cause
    assert refusal.value.remedy.startswith("Check the name, the connection and NCAP_OFFLINE;")


@needs_hub
def test_a_missing_file_is_named(site: dict[str, bytes]):
    with pytest.raises(errors.WeightsError) as refusal:
        load_model("tiny_depthwise", weights="hf://me/mine")
    assert "cannot fetch model.safetensors of me/mine from the Hugging" in refusal.value.cause


@needs_hub
def test_a_damaged_configuration_is_refused(site: dict[str, bytes]):
    site["me/mine/config.json"] = b"{not json"
    with pytest.raises(errors.WeightsError) as refusal:
        hub.find("hf://me/mine", MODELS)
    assert "config.json of hf://me/mine is not valid JSON" in refusal.value.cause
    assert refusal.value.remedy == "Download the repository again"


@needs_hub
def test_a_configuration_is_checked_before_any_weights_are_fetched(site: dict[str, bytes]):
    config = {"architecture": "cifar_resnet20", "pretrained_cfg": {"input_size": [3, -5, -5]}}
    site["me/mine/config.json"] = json.dumps(config).encode()
    with pytest.raises(errors.ModelError) as refusal:
        find_models(["hf://me/mine"])
    assert refusal.value.cause == (
        "config.json of hf://me/mine: pretrained_cfg.input_size is [3, -5, -5], not "
        "[3, side, side] with a side from 4 to 4096 pixels"
    )


@needs_hub
def test_an_architecture_that_is_not_in_the_zoo_is_named(site: dict[str, bytes]):
    site["timm/tinynet_b.in1k/config.json"] = json.dumps({"architecture": "tinynet_b"}).encode()
    with pytest.raises(errors.ModelError) as refusal:
        find_models(["hf://timm/tinynet_b.in1k"])
    assert refusal.value.cause == "timm/tinynet_b.in1k is a 'tinynet_b', which the zoo lacks"
    assert refusal.value.remedy.startswith("Choose a checkpoint of alexnet, cifar_resnet20, ")
    assert refusal.value.remedy.endswith(", or give a ModelSpec of your own")


def test_a_repository_that_states_no_architecture_is_refused():
    with pytest.raises(errors.ModelError) as refusal:
        hub.architecture_of({}, "a/b", MODELS)
    assert refusal.value.cause == "a/b states no architecture"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.WeightsError) as refusal:
        hub.fetch("hf://me/mine")
    assert str(refusal.value) == (
        "hf://me/mine needs the package huggingface_hub. Run pip install 'ncap_jax[hf]'."
    )


@needs_hub
def test_an_hf_name_stands_where_a_models_name_stands(
    site: dict[str, bytes], shared_data: pathlib.Path
):
    """Real PyTorch weights in a repository of timm's form, found, renamed, and the same."""
    content = (shared_data / "weights" / "cifar10_resnet20.safetensors").read_bytes()
    config = {
        "architecture": "cifar_resnet20",
        "pretrained_cfg": {"input_size": [3, 40, 40], "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    site["me/Mine.v2/model.safetensors"] = content
    site["me/Mine.v2/config.json"] = json.dumps(config).encode()
    (spec,) = find_models(["hf://me/Mine.v2", "hf://me/Mine.v2"])
    assert (spec.name, spec.input_size, spec.preprocessing) == ("mine.v2", 40, "tf")
    assert spec.sha256 == hashlib.sha256(content).hexdigest()
    assert spec.build_pretrained.source == "hf://me/Mine.v2"
    assert spec.build == MODELS["cifar_resnet20"].build  # by which a saved model is rebuilt
    x = np.random.default_rng(0).normal(size=(2, 40, 40, 3)).astype(np.float32)
    local = shared_data / "weights" / "cifar10_resnet20.safetensors"
    expected = load_model("cifar_resnet20", weights=local).features(x)
    np.testing.assert_array_equal(load_model(spec).features(x), expected)
    sent = pickle.loads(pickle.dumps(spec))  # as it is sent to a worker process
    np.testing.assert_array_equal(load_model(sent).features(x), expected)


@pytest.mark.parametrize(
    ("mean", "std", "mode"),
    [
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "torch"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "tf"),
        ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], "unit"),
        (None, None, "torch"),
    ],
)
def test_normalisations(mean: list[float] | None, std: list[float] | None, mode: str):
    pixels = {} if mean is None else {"mean": mean, "std": std}
    base = ModelSpec("base", build=print, input_size=8, feature_width=4, preprocessing="torch")
    assert hub.preprocessing_of(pixels, base, "a/b") == mode


def test_an_unknown_normalisation_is_refused():
    base = ModelSpec("base", build=print, input_size=8, feature_width=4)
    clip = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    }
    with pytest.raises(errors.ModelError) as refusal:
        hub.preprocessing_of(clip, base, "a/b")
    assert refusal.value.cause == (
        f"a/b normalises pixels with mean {clip['mean']} and std {clip['std']}, which no mode of "
        "ncap_jax.zoo.preprocess.MODES does"
    )
    assert refusal.value.remedy == "Give a ModelSpec of your own"


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("vit_tiny_patch16_224", "vit_ti16"),
        ("vit_base_patch16_224", "vit_b16"),
        ("convnext_tiny", "convnext_tiny"),
        ("cifar_resnet56", "cifar_resnet56"),
    ],
)
def test_timms_architectures_that_the_zoo_has(architecture: str, name: str):
    assert hub.architecture_of({"architecture": architecture}, "a/b", MODELS).name == name
