"""Where weights come from: shipped, a folder, the cache, the publisher."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import time
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

import filelock
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo import MODELS
from ncap_jax.zoo.layers import Backbone, Dense
from ncap_jax.zoo.weights import sources, store


class Net(Backbone):
    """A single published layer."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.dense = Dense(2, 3, name="d", rngs=rngs)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        return {"d": self.dense(x)}


ARRAYS = {
    "d/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "d/bias": np.arange(3, dtype=np.float32),
}
LAYOUT = WeightsLayout("keras")


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def published(tmp_path: pathlib.Path) -> ModelSpec:
    """A publisher's file, served from a file URL, and a spec that states its digest."""
    (tmp_path / "web").mkdir()
    path = tmp_path / "web" / "net_weights.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModelSpec("net", Net, 8, 3, weights=path.as_uri(), sha256=digest, layout=LAYOUT)


def filled(spec: ModelSpec, **options: Any) -> Net:
    module = Net(rngs=nnx.Rngs(0))
    sources.fill(module, spec, **options)
    return module


def check(module: Net) -> None:
    np.testing.assert_array_equal(module.dense.kernel[...], ARRAYS["d/kernel"])
    np.testing.assert_array_equal(module.dense.bias[...], ARRAYS["d/bias"])


def web_path(spec: ModelSpec) -> str:
    assert spec.weights is not None
    return spec.weights.removeprefix("file://")


def kept(cache: pathlib.Path) -> list[str]:
    """What a cache holds beside the locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_downloaded_once_then_served_from_the_cache(published: ModelSpec, cache: pathlib.Path):
    check(filled(published))
    assert kept(cache) == ["net.json", "net.safetensors"]  # the original is not kept
    entry = json.loads((cache / "net.json").read_text())
    assert entry["source_sha256"] == published.sha256
    assert entry["sha256"] == hashlib.sha256((cache / "net.safetensors").read_bytes()).hexdigest()
    os.unlink(web_path(published))
    check(filled(published))
    assert sources.digest(published) == published.sha256


def test_offline_uses_the_cache_and_never_the_network(
    published: ModelSpec, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    with pytest.raises(errors.WeightsError) as refusal:
        filled(published)
    assert "NCAP_OFFLINE forbids downloads" in refusal.value.cause
    monkeypatch.setenv("NCAP_OFFLINE", "0")
    filled(published)
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    check(filled(published))


def test_weights_dir_comes_first(
    published: ModelSpec,
    cache: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    check(filled(published, weights_dir=tmp_path / "web"))
    monkeypatch.setenv("NCAP_WEIGHTS_DIR", str(tmp_path / "web"))
    check(filled(published))
    assert not cache.exists()
    assert sources.digest(published) == published.sha256


def test_names_of_the_layout_count_too(
    published: ModelSpec, cache: pathlib.Path, tmp_path: pathlib.Path
):
    os.rename(web_path(published), tmp_path / "web" / "copy.safetensors")
    other = WeightsLayout("keras", other_files=("copy.safetensors",))
    spec = dataclasses.replace(published, layout=other)
    check(filled(spec, weights_dir=tmp_path / "web"))
    named = dataclasses.replace(published, layout=WeightsLayout("keras", file="copy.safetensors"))
    assert sources.published_name(named) == "copy.safetensors"
    assert sources.published_name(published) == "net_weights.safetensors"
    check(filled(dataclasses.replace(named, sha256=None), weights_dir=tmp_path / "web"))


@pytest.mark.parametrize("kind", ["sha256", "md5", "sha256_prefix"])
def test_another_file_under_the_published_name_is_refused(
    kind: str, published: ModelSpec, cache: pathlib.Path, tmp_path: pathlib.Path
):
    wrong = "0" * 8
    if kind == "sha256":
        spec = dataclasses.replace(published, sha256=wrong)
    else:
        layout = dataclasses.replace(LAYOUT, **{kind: wrong})
        spec = dataclasses.replace(published, sha256=None, layout=layout)
    with pytest.raises(errors.WeightsError) as refusal:
        filled(spec)  # downloaded
    assert f"is not the published file: its {kind} is" in refusal.value.cause
    assert kept(cache) == []
    with pytest.raises(errors.WeightsError) as refusal:
        filled(spec, weights_dir=tmp_path / "web")
    assert f"is not the published file: its {kind} is" in refusal.value.cause
    check(filled(spec, path=web_path(spec)))  # given by its path, it is what the user wants


def nested(depth: int) -> bytes:
    """JSON so deep that a reader runs out of stack."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def as_safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


DAMAGED = "{} is damaged: its SHA-256 is not the recorded one"
UNUSABLE = "its description is damaged, missing or of another file"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("net.safetensors", lambda content: content[:-1] + b"?", DAMAGED),
        ("net.safetensors", lambda content: b"", DAMAGED),
        ("net.safetensors", lambda content: as_safetensors(nested(10**5)), DAMAGED),
        ("net.json", lambda content: nested(10**5), UNUSABLE),
        ("net.json", lambda content: b"[]", UNUSABLE),
        ("net.json", lambda content: content.replace(b'"sha256"', b'"sha-256"'), UNUSABLE),
    ],
    ids=["a byte", "empty", "nested header", "nested description", "a list", "no digest"],
)
def test_a_damaged_cache_is_made_again(
    name: str,
    damage: Callable[[bytes], bytes],
    reason: str,
    published: ModelSpec,
    cache: pathlib.Path,
):
    filled(published)
    (cache / name).write_bytes(damage((cache / name).read_bytes()))
    assert sources.digest(published) == published.sha256
    with pytest.warns(UserWarning, match="the cached") as caught:
        check(filled(published))
    assert [str(warning.message) for warning in caught] == [
        "the cached weights of net cannot be used and are fetched and converted again: "
        f"{reason.format(cache / 'net.safetensors')}"
    ]
    assert kept(cache) == ["net.json", "net.safetensors"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(filled(published))  # sound again


def test_a_description_of_another_file_is_no_reason_to_trust_the_copy(
    published: ModelSpec, cache: pathlib.Path
):
    """Arrays that are whole, but of another architecture: an older version may have kept them."""
    filled(published)
    other = safetensors.numpy.save({"dense.kernel": np.zeros((9, 9), np.float32)})
    (cache / "net.safetensors").write_bytes(other)
    entry = json.loads((cache / "net.json").read_text())
    entry["sha256"] = hashlib.sha256(other).hexdigest()
    (cache / "net.json").write_text(json.dumps(entry))
    with pytest.warns(UserWarning, match="does not fit Net"):
        check(filled(published))


def test_a_damaged_cache_of_an_offline_machine_says_both(
    published: ModelSpec, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    filled(published)
    (cache / "net.safetensors").write_bytes(b"")
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    with (
        pytest.warns(UserWarning, match="is damaged: its SHA-256"),
        pytest.raises(errors.WeightsError) as refusal,
    ):
        filled(published)
    assert "NCAP_OFFLINE forbids downloads" in refusal.value.cause


def test_a_cache_of_another_source_or_without_description_is_not_used(
    published: ModelSpec, cache: pathlib.Path
):
    filled(published)
    (cache / "net.json").write_text("{not json")
    check(filled(published))
    entry = json.loads((cache / "net.json").read_text())
    (cache / "net.json").write_text(json.dumps({**entry, "source": "https://elsewhere"}))
    check(filled(published))
    assert json.loads((cache / "net.json").read_text())["source"] == published.weights


def test_a_wrong_architecture_leaves_no_cache_behind(published: ModelSpec, cache: pathlib.Path):
    safetensors.numpy.save_file({"d/kernel": np.zeros((9, 9), np.float32)}, web_path(published))
    with pytest.raises(errors.WeightsError) as refusal:
        filled(dataclasses.replace(published, sha256=None))
    assert "does not fit Net: 1 unfilled (dense.bias)" in refusal.value.cause
    assert kept(cache) == []


def test_a_cache_folder_that_cannot_be_written(
    published: ModelSpec, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "a file"))
    with pytest.raises(errors.WeightsError) as refusal:
        filled(published)
    assert refusal.value.cause.startswith("cannot keep the weights of net in ")
    assert refusal.value.remedy == "Set NCAP_CACHE to a folder that you may write to"


def test_a_full_disk_leaves_no_cache_behind(
    published: ModelSpec, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.WeightsError) as refusal:
        filled(published)
    assert "No space left on device" in refusal.value.cause
    assert kept(cache) == []


def test_a_download_that_another_process_never_ends(
    published: ModelSpec, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "LOCK_TIMEOUT", 0.0)
    cache.mkdir(parents=True)
    with (
        filelock.FileLock(cache / "net.lock"),
        pytest.raises(errors.WeightsError) as refusal,
    ):
        filled(published)
    assert refusal.value.cause == "another process has been downloading net for 0 s"
    assert refusal.value.remedy == (
        f"Stop it; if no such process is running, remove {cache / 'net.lock'}"
    )


def test_unpublished_weights_ask_for_the_folder(
    published: ModelSpec, cache: pathlib.Path, tmp_path: pathlib.Path
):
    spec = dataclasses.replace(published, weights="net_weights.safetensors")
    with pytest.raises(errors.WeightsError) as refusal:
        filled(spec, weights_dir=tmp_path)
    assert refusal.value.cause == (
        f"the weights of net cannot be downloaded, and net_weights.safetensors is not in {tmp_path}"
    )
    assert refusal.value.remedy == (
        "Put the file into the folder given by weights_dir (NCAP_WEIGHTS_DIR), give its path as "
        'weights, or draw it at random: weights="random" in its ModelSpec for this model alone, in '
        "the run for all models"
    )
    with pytest.raises(errors.WeightsError, match="a folder of yours"):
        filled(spec)
    check(filled(spec, weights_dir=tmp_path / "web"))


def test_a_model_without_weights_is_an_error_not_a_random_model(published: ModelSpec):
    with pytest.raises(errors.WeightsError) as refusal:
        filled(dataclasses.replace(published, weights=None))
    assert refusal.value.cause == "net has no pretrained weights"
    assert refusal.value.remedy == (
        'Give a file as weights, or draw it at random: weights="random" in its ModelSpec for this '
        "model alone, in the run for all models"
    )


def test_own_safetensors_by_path(cache: pathlib.Path, tmp_path: pathlib.Path):
    module = Net(rngs=nnx.Rngs(3))
    store.save_module(module, tmp_path / "mine.safetensors")
    spec = ModelSpec("mine", Net, 8, 3, weights=str(tmp_path / "mine.safetensors"))
    np.testing.assert_array_equal(filled(spec).dense.kernel[...], module.dense.kernel[...])


def test_digests_of_shipped_stated_and_unknown_files(cache: pathlib.Path):
    shipped = sources.manifest()["tiny_plain"]["sha256"]
    assert sources.digest(MODELS["tiny_plain"]) == shipped
    assert sources.digest(MODELS["vgg16"]) is None
    stated = dataclasses.replace(MODELS["vgg16"], sha256="ab")
    assert sources.digest(stated) == "ab"
    assert sources.stated_digests(MODELS["alexnet"])["sha256_prefix"] == "7be5be79"
    assert sources.stated_digests(MODELS["vgg16"])["md5"] == "6d6bbae143d832006294945121d1f1fc"


def test_parallel_calls_download_once(
    published: ModelSpec, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """The lock is a file's: it holds threads apart as it does processes."""
    opened = []
    urlopen = urllib.request.urlopen

    def slow(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments)
        time.sleep(0.2)  # the others arrive meanwhile
        return urlopen(*arguments, **options)

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for module in pool.map(filled, [published] * 3):
            check(module)
    assert len(opened) == 1


def _fill_in_process(weights: str, cache: str, opened: Any) -> None:
    """Fill a model in a process of its own, counting how often its address is opened."""
    os.environ["NCAP_CACHE"] = cache
    urlopen = urllib.request.urlopen

    def counted(*arguments: Any, **options: Any) -> Any:
        with opened.get_lock():
            opened.value += 1
        return urlopen(*arguments, **options)

    urllib.request.urlopen = counted
    check(filled(ModelSpec("net", Net, 8, 3, weights=weights, layout=LAYOUT)))


@pytest.mark.slow
def test_parallel_processes_download_once(published: ModelSpec, tmp_path: pathlib.Path):
    context = multiprocessing.get_context("spawn")
    opened = context.Value("i", 0)
    arguments = (published.weights, str(tmp_path / "shared"), opened)
    workers = [context.Process(target=_fill_in_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert opened.value == 1


def test_the_folders_that_are_searched(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, cache: pathlib.Path
):
    assert sources.folders() == []
    monkeypatch.setenv("NCAP_WEIGHTS_DIR", str(tmp_path))
    assert sources.folders() == [tmp_path]
    (tmp_path / "given").mkdir()
    assert sources.folders(tmp_path / "given") == [tmp_path / "given"]
    monkeypatch.setenv("NCAP_WEIGHTS_DIR", str(tmp_path / "none"))
    with pytest.raises(errors.WeightsError) as refusal:
        sources.folders()
    assert refusal.value.cause == f"NCAP_WEIGHTS_DIR={tmp_path / 'none'} is not a folder"
    assert refusal.value.remedy == "Give the folder that holds the weight files, or leave it out"
