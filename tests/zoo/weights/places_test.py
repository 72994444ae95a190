"""Where weights would come from: every place in its turn, and the same as loading finds."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import urllib.request
from typing import Any

import pytest
from flax import nnx

from ncap_jax import errors
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo import MODELS, load_model
from ncap_jax.zoo.weights import places, sources
from ncap_jax.zoo.weights.places import Place, locate
from tests.support.small import SmallNet, small_spec

URL = "https://example.org/net.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache, no folder, and a network that nobody may use."""
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    return tmp_path / "cache" / "weights"


def spec_of(weights: str | None, **changes: Any) -> ModelSpec:
    return dataclasses.replace(small_spec("net"), weights=weights, **changes)


def keep(spec: ModelSpec, cache: pathlib.Path, source: str) -> None:
    """Put what a download leaves into the cache."""
    cache.mkdir(parents=True)
    weights, description = sources.cache_paths(spec)
    weights.write_bytes(b"")
    description.write_text(f'{{"source": "{source}", "source_sha256": "a", "sha256": "b"}}')


def test_what_needs_no_file(tmp_path: pathlib.Path):
    assert locate(MODELS["tiny_plain"]) == Place("package")
    assert locate(spec_of("random")) == Place("random")
    brings = spec_of(None, build_pretrained=lambda **_: SmallNet(rngs=nnx.Rngs(0)))
    assert locate(brings) == Place("in memory")


def test_files_of_this_machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "net.safetensors"
    assert locate(spec_of(str(file))).kind == "missing"
    file.write_bytes(b"")
    assert locate(spec_of(str(file))) == Place("file")
    assert locate(spec_of(URL), tmp_path) == Place("folder")
    assert locate(spec_of("net.safetensors"), tmp_path) == Place("folder")
    other = WeightsLayout("keras", other_files=("net.safetensors",))
    assert locate(spec_of("https://example.org/net.h5", layout=other), tmp_path) == Place("folder")
    monkeypatch.setenv("NCAP_WEIGHTS_DIR", str(tmp_path))
    assert locate(spec_of(URL)) == Place("folder")


def test_the_cache_counts_for_the_file_that_it_describes(cache: pathlib.Path):
    spec = spec_of(URL)
    assert locate(spec) == Place("download")
    keep(spec, cache, URL)
    assert locate(spec) == Place("cache")
    assert locate(spec_of(f"{URL}2")) == Place("download")


def test_offline_says_where_it_looked(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    layout = WeightsLayout("keras", other_files=("copy.h5",))
    assert locate(spec_of(URL, layout=layout), tmp_path) == Place(
        "missing",
        f"net.safetensors or copy.h5 is not in {tmp_path}, its copy is not in the cache {cache}, "
        f"and NCAP_OFFLINE forbids downloading {URL}",
    )
    keep(spec_of(URL), cache, URL)
    assert locate(spec_of(URL)) == Place("cache")


def test_what_nobody_publishes(tmp_path: pathlib.Path):
    assert locate(spec_of("net.safetensors"), tmp_path) == Place(
        "missing", f"net.safetensors is not in {tmp_path}, and cannot be downloaded"
    )
    assert locate(spec_of("net.safetensors")).why == (
        "net.safetensors is not in a folder of yours (none is set), and cannot be downloaded"
    )
    assert locate(spec_of(None)) == Place("missing", "its ModelSpec names none")


def test_missing_is_what_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch):
    """Offline and without a folder, over the whole registry."""
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    kinds = {name: locate(spec).kind for name, spec in MODELS.items()}
    assert set(kinds.values()) == {"package", "missing"}
    monkeypatch.setattr(places.sources.readers, "fill_from_file", None)
    for name, kind in kinds.items():
        module = None
        if kind == "missing":
            with pytest.raises(errors.WeightsError):
                sources.fill(module, MODELS[name])  # type: ignore[arg-type]
    load_model("tiny_plain_wide")


def test_a_folder_that_does_not_exist_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    for variable, given in ((None, tmp_path / "none"), ("NCAP_WEIGHTS_DIR", None)):
        if variable:
            monkeypatch.setenv(variable, os.fspath(tmp_path / "none"))
        with pytest.raises(errors.WeightsError) as refusal:
            locate(spec_of(URL), given)
        assert refusal.value.cause == (
            f"{variable or 'weights_dir'}={tmp_path / 'none'} is not a folder"
        )
        assert refusal.value.remedy == (
            "Give the folder that holds the weight files, or leave it out"
        )
