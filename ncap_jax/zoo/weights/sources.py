"""Where a model's pretrained weights are: shipped, in a folder of the user's, cached, published.

A published file is searched for in `weights_dir` first and then downloaded once. The cache
(`ncap_jax.caching`) keeps its arrays as our own safetensors, with a small JSON file beside it that
holds its origin and its digests.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import filelock
from flax import nnx

from ncap_jax import caching, errors, files
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import download, readers, store

FOLDER = "ncap_jax.zoo.weights"
# In place of a file: this model is drawn at random.
RANDOM = "random"
# What addresses of weights on the Hugging Face Hub begin with.
HUB = "hf://"
AT_RANDOM = (
    'draw it at random: weights="random" in its ModelSpec for this model alone, in the run for all '
    "models"
)
# A second process that wants the same weights waits for the first one's download this long.
LOCK_TIMEOUT = 3600.0


def fill(
    module: nnx.Module,
    spec: ModelSpec,
    path: str | os.PathLike | None = None,
    weights_dir: str | os.PathLike | None = None,
) -> None:
    """Fill a module with its pretrained weights, or with those in a file.

    Args:
        module: what `spec.build` returned; filled in place.
        spec: says where the published weights are.
        path: a file to read instead; no digest is expected of it.
        weights_dir: folder that holds published files under their published names; default
            `NCAP_WEIGHTS_DIR`.

    Raises:
        WeightsError: the model has no pretrained weights, or they cannot be fetched, are damaged,
            unsafe to read or of another architecture.
    """
    if path is not None:
        readers.fill_from_file(module, spec, path)
    elif spec.family == "tiny":
        entry = manifest()[spec.name]
        with importlib.resources.as_file(importlib.resources.files(FOLDER) / entry["file"]) as file:
            store.load_module(module, file, entry["sha256"])
    elif spec.weights is None:
        raise errors.WeightsError(
            f"{spec.name} has no pretrained weights",
            f"Give a file as weights, or {AT_RANDOM}",
        )
    elif local := find_local(spec, weights_dir):
        if local.name == published_name(spec):
            download.check_file(local, stated_digests(spec))
        readers.fill_from_file(module, spec, local)
    elif spec.weights.startswith(HUB):
        from ncap_jax.zoo import hub  # needed for few models

        readers.fill_from_file(module, spec, hub.fetch(spec.weights))
    elif "://" in spec.weights:
        _fill_from_cache(module, spec)
    else:
        raise errors.WeightsError(
            f"the weights of {spec.name} cannot be downloaded, and {spec.weights} is not in "
            f"{described(weights_dir)}",
            "Put the file into the folder given by weights_dir (NCAP_WEIGHTS_DIR), give its path "
            f"as weights, or {AT_RANDOM}",
        )


def find_local(
    spec: ModelSpec, weights_dir: str | os.PathLike | None = None
) -> pathlib.Path | None:
    """The model's file on this machine: its own path, or by name in `weights_dir`.

    Raises:
        WeightsError: the folder does not exist.
    """
    if spec.weights is None or spec.weights == RANDOM:
        return None
    if own := own_file(spec):
        return own
    names = (published_name(spec), *spec.layout.other_files)
    candidates = (folder / name for folder in folders(weights_dir) for name in names)
    return next((path for path in candidates if path.is_file()), None)


def own_file(spec: ModelSpec) -> pathlib.Path | None:
    """The file whose path the ModelSpec gives, if it is there."""
    if spec.weights is None or "://" in spec.weights:
        return None
    return path if (path := pathlib.Path(spec.weights)).is_file() else None


def published_name(spec: ModelSpec) -> str:
    """What the model's file is called in `weights_dir`: as published, or as its layout says."""
    assert spec.weights is not None
    return spec.layout.file or download.file_name(spec.weights)


def digest(spec: ModelSpec, weights_dir: str | os.PathLike | None = None) -> str | None:
    """SHA-256 of the model's pretrained weights file; None: not on this machine and not stated.

    None for a model that is drawn at random, too.
    """
    if spec.weights == RANDOM:
        return None
    if spec.family == "tiny":
        return manifest()[spec.name]["sha256"]
    if local := find_local(spec, weights_dir):
        with local.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if held_by_hub(spec):
        from ncap_jax.zoo import hub

        held = hub.cached(spec.weights or "")
        return spec.sha256 if held is None else hub.digest(held)
    entry = cache_entry(spec)
    return entry["source_sha256"] if entry else spec.sha256


def held_by_hub(spec: ModelSpec) -> bool:
    """Whether the model's weights are fetched, and kept, by the Hub's own library."""
    return (spec.weights or "").startswith(HUB)


def stated_digests(spec: ModelSpec) -> Mapping[str, str | None]:
    """What the publisher states of the file: SHA-256, a prefix of it, or MD5."""
    layout = spec.layout
    return {"sha256": spec.sha256, "md5": layout.md5, "sha256_prefix": layout.sha256_prefix}


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """The shipped weights: name -> file, SHA-256, source accuracy, seed and training recipe."""
    text = (importlib.resources.files(FOLDER) / "manifest.json").read_text(encoding="utf-8")
    return json.loads(text)["models"]


def cache_paths(spec: ModelSpec) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the cache keeps a model: safetensors, and JSON with its origin and digest."""
    folder = caching.folder() / "weights"
    return folder / f"{spec.name}.safetensors", folder / f"{spec.name}.json"


def cache_entry(spec: ModelSpec) -> dict[str, str] | None:
    """The cache's description of a model's file; None: it does not have this file."""
    weights, description = cache_paths(spec)
    try:
        entry = json.loads(description.read_text(encoding="utf-8"))
        stated = {key: str(entry[key]) for key in ("source", "source_sha256", "sha256")}
    except (OSError, *files.DAMAGE):
        return None
    return stated if stated["source"] == spec.weights and weights.is_file() else None


def _fill_from_cache(module: nnx.Module, spec: ModelSpec) -> None:
    weights, _ = cache_paths(spec)
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(weights.with_suffix(".lock"), timeout=LOCK_TIMEOUT):
            if not _filled(module, spec):
                _download(module, spec)
    except filelock.Timeout as error:
        raise errors.WeightsError(
            f"another process has been downloading {spec.name} for {LOCK_TIMEOUT:.0f} s",
            f"Stop it; if no such process is running, remove {error.lock_file}",
        ) from error
    except OSError as error:
        raise errors.WeightsError(
            f"cannot keep the weights of {spec.name} in {weights.parent}: {error}",
            "Set NCAP_CACHE to a folder that you may write to",
        ) from error


def _filled(module: nnx.Module, spec: ModelSpec) -> bool:
    """Fill a module from the cache, if that has its file and the file is sound."""
    weights, _ = cache_paths(spec)
    reason = "its description is damaged, missing or of another file"
    if entry := cache_entry(spec):
        try:
            store.load_module(module, weights, entry["sha256"])
            return True
        except errors.WeightsError as error:
            reason = error.cause
    if weights.is_file():
        # It is a copy of ours, and the publisher has the original.
        warnings.warn(
            f"the cached weights of {spec.name} cannot be used and are fetched and converted "
            f"again: {reason}",
            stacklevel=2,
        )
    return False


def _download(module: nnx.Module, spec: ModelSpec) -> None:
    """Fetch, convert and describe a model's file, and fill the module; the original goes."""
    weights, description = cache_paths(spec)
    assert spec.weights is not None
    original = weights.parent / published_name(spec)
    try:
        source_sha256 = download.fetch(spec.weights, original, stated_digests(spec))
        readers.fill_from_file(module, spec, original)
    finally:
        original.unlink(missing_ok=True)
    origin = {"source": spec.weights, "source_sha256": source_sha256}
    sha256 = store.save_module(module, weights, origin)
    with files.atomic_file(description) as file:
        file.write(json.dumps({**origin, "sha256": sha256}, indent=1).encode())


def described(weights_dir: str | os.PathLike | None) -> str:
    """The folders that are searched, for a message."""
    return ", ".join(map(str, folders(weights_dir))) or "a folder of yours (none is set)"


def folders(weights_dir: str | os.PathLike | None = None) -> list[pathlib.Path]:
    """The folders that are searched for published files: the one given, or `NCAP_WEIGHTS_DIR`.

    Raises:
        WeightsError: the folder does not exist.
    """
    name, given = "weights_dir", weights_dir
    if not given:
        name, given = "NCAP_WEIGHTS_DIR", os.environ.get("NCAP_WEIGHTS_DIR")
    if not given:
        return []
    folder = caching.expanded(given)
    if not folder.is_dir():
        raise errors.WeightsError(
            f"{name}={os.fspath(given)} is not a folder",
            "Give the folder that holds the weight files, or leave it out",
        )
    return [folder]
