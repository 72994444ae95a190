"""Where weights come from: folder, cache, download; whole and right, or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import urllib.error

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ncap_jax import caching, errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import load_model
from ncap_jax.zoo.layers import Backbone, Dense
from ncap_jax.zoo.weights import download, sources, store


class Net(Backbone):
    """A single published layer."""

    def __init__(self, *, rngs, dtype=None):
        self.dense = Dense(2, 3, name="d", rngs=rngs)

    def stages(self, x):
        return {"d": self.dense(x)}


ARRAYS = {
    "d/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "d/bias": np.arange(3, dtype=np.float32),
}
EXTRA = {"convention": "keras", "classifier": ()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def published(tmp_path):
    """A publisher's file, served from a file URL, and a spec that states its digest."""
    (tmp_path / "web").mkdir()
    path = tmp_path / "web" / "net_weights.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModelSpec("net", Net, 8, 3, weights=path.as_uri(), sha256=digest, extra=EXTRA)


def filled(spec, **options):
    module = Net(rngs=nnx.Rngs(0))
    sources.fill(module, spec, **options)
    return module


def check(module):
    np.testing.assert_array_equal(module.dense.kernel[...], ARRAYS["d/kernel"])
    np.testing.assert_array_equal(module.dense.bias[...], ARRAYS["d/bias"])


def web_path(spec):
    return spec.weights.removeprefix("file://")


def test_downloaded_once_then_served_from_the_cache(published, cache):
    check(filled(published))
    kept = sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")
    assert kept == ["net.json", "net.safetensors"]  # the original is not kept
    entry = json.loads((cache / "net.json").read_text())
    assert entry["source_sha256"] == published.sha256
    assert entry["sha256"] == hashlib.sha256((cache / "net.safetensors").read_bytes()).hexdigest()
    os.unlink(web_path(published))
    check(filled(published))
    assert sources.digest(published) == published.sha256


def test_load_model_takes_the_same_way(published, cache):
    check(load_model(published))


def test_offline_uses_the_cache_and_never_the_network(published, cache, monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    with pytest.raises(errors.WeightsError, match="NCAP_OFFLINE forbids"):
        filled(published)
    monkeypatch.setenv("NCAP_OFFLINE", "0")
    filled(published)
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    check(filled(published))


def test_weights_dir_comes_first(published, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    check(filled(published, weights_dir=tmp_path / "web"))
    monkeypatch.setenv("NCAP_WEIGHTS_DIR", str(tmp_path / "web"))
    check(filled(published))
    assert not cache.exists()
    assert sources.digest(published) == published.sha256


def test_weights_dir_under_another_known_name(published, cache, tmp_path):
    os.rename(web_path(published), tmp_path / "web" / "copy.safetensors")
    spec = dataclasses.replace(published, extra={**EXTRA, "files": ("copy.safetensors",)})
    check(filled(spec, weights_dir=tmp_path / "web"))


@pytest.mark.parametrize("kind", ["sha256", "md5", "sha256_prefix"])
def test_another_file_under_the_published_name_is_refused(kind, published, cache, tmp_path):
    wrong = "0" * 8
    changes = {"sha256": wrong} if kind == "sha256" else {"extra": {**EXTRA, kind: wrong}}
    spec = dataclasses.replace(published, **{"sha256": None, **changes})
    with pytest.raises(errors.WeightsError, match=f"its {kind} is"):
        filled(spec)  # downloaded
    assert not list(cache.glob("net*safetensors"))
    assert not list(cache.glob("*.part"))
    with pytest.raises(errors.WeightsError, match=f"its {kind} is"):
        filled(spec, weights_dir=tmp_path / "web")
    check(filled(spec, path=web_path(spec)))  # given by its path, it is what the user wants


def test_damaged_cache_is_refused(published, cache):
    filled(published)
    content = bytearray((cache / "net.safetensors").read_bytes())
    content[-1] ^= 1
    (cache / "net.safetensors").write_bytes(content)
    with pytest.raises(errors.WeightsError, match="SHA-256 differs"):
        filled(published)


def test_cache_of_another_source_or_without_description_is_not_used(published, cache):
    filled(published)
    (cache / "net.json").write_text("{not json")
    check(filled(published))
    entry = json.loads((cache / "net.json").read_text())
    (cache / "net.json").write_text(json.dumps({**entry, "source": "https://elsewhere"}))
    check(filled(published))
    assert json.loads((cache / "net.json").read_text())["source"] == published.weights


def test_wrong_architecture_leaves_no_cache_behind(published, cache):
    safetensors.numpy.save_file({"d/kernel": np.zeros((9, 9), np.float32)}, web_path(published))
    with pytest.raises(errors.WeightsError, match="does not fit Net"):
        filled(dataclasses.replace(published, sha256=None))
    assert [p.suffix for p in cache.iterdir()] in ([], [".lock"])


def test_cache_folder_that_cannot_be_written(published, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "a file"))
    with pytest.raises(errors.WeightsError, match="Set NCAP_CACHE"):
        filled(published)


def test_unpublished_weights_ask_for_the_folder(published, cache, tmp_path):
    spec = dataclasses.replace(published, weights="net_weights.safetensors")
    with pytest.raises(errors.WeightsError, match="weights_dir"):
        filled(spec)
    check(filled(spec, weights_dir=tmp_path / "web"))


def test_model_without_weights_is_an_error_not_a_random_model(published):
    with pytest.raises(errors.WeightsError, match="no pretrained weights"):
        filled(dataclasses.replace(published, weights=None))


class Response(io.BytesIO):
    """What `urlopen` returns, promising more or less than it holds."""

    def __init__(self, content, promised):
        super().__init__(content)
        self.headers = {"Content-Length": str(promised)}


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))


def test_incomplete_downloads_are_tried_again(published, cache, no_pauses, monkeypatch):
    with open(web_path(published), "rb") as file:
        content = file.read()
    calls = []

    def urlopen(request, timeout):
        calls.append(request.full_url)
        return Response(content if len(calls) == 3 else content[:-9], len(content))

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    check(filled(published))
    assert len(calls) == 3
    assert not list(cache.glob("*.part"))


def test_incomplete_for_good_is_refused(published, cache, no_pauses, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: Response(b"short", 99))
    with pytest.raises(errors.WeightsError, match="5 of 99 bytes"):
        filled(published)
    assert not [p for p in cache.iterdir() if p.suffix != ".lock"]


def test_missing_pages_are_not_tried_again(published, cache, no_pauses, monkeypatch):
    calls = []

    def urlopen(request, timeout):
        calls.append(1)
        raise urllib.error.HTTPError(request.full_url, 404, "Not Found", {}, None)

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    with pytest.raises(errors.WeightsError, match="404"):
        filled(published)
    assert len(calls) == 1


def test_plain_http_is_refused(published, cache):
    with pytest.raises(errors.WeightsError, match="not an https address"):
        filled(dataclasses.replace(published, weights="http://example.org/w.safetensors"))


def _fetch_in_process(weights, cache, count):
    """Fill a model in a process of its own, counting real downloads."""
    os.environ["NCAP_CACHE"] = cache
    fetch_once = download._fetch_once

    def counted(*args):
        with count.get_lock():
            count.value += 1
        return fetch_once(*args)

    download._fetch_once = counted
    check(filled(ModelSpec("net", Net, 8, 3, weights=weights, extra=EXTRA)))


def test_parallel_processes_download_once(published, tmp_path):
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    arguments = (published.weights, str(tmp_path / "shared"), count)
    workers = [context.Process(target=_fetch_in_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert count.value == 1


def test_cache_folder_defaults_to_the_users(monkeypatch):
    monkeypatch.delenv("NCAP_CACHE", raising=False)
    assert caching.folder().name == "ncap_jax"
    monkeypatch.setenv("NCAP_CACHE", "~/elsewhere")
    assert str(caching.folder()) == os.path.expanduser("~/elsewhere")


def test_own_safetensors_by_path(cache, tmp_path):
    module = Net(rngs=nnx.Rngs(3))
    store.save_module(module, tmp_path / "mine.safetensors")
    spec = ModelSpec("mine", Net, 8, 3, weights=str(tmp_path / "mine.safetensors"))
    np.testing.assert_array_equal(filled(spec).dense.kernel[...], module.dense.kernel[...])
