"""Where a model's weights would come from: found without reading them, and without the network.

The order is that of `ncap_jax.zoo.load_model`, so that what is missing can be named before a run.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, NamedTuple

from ncap_jax import caching
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import sources

Kind = Literal["package", "in memory", "random", "folder", "file", "cache", "download", "missing"]


class Place(NamedTuple):
    """Where a model's weights are.

    Attributes:
        kind: `package`: they came with it; `in memory`: the ModelSpec brings them; `random`: none
            are wanted; `folder`: `weights_dir` has the file; `file`: the ModelSpec's own; `cache`:
            downloaded before; `download`: published, whether or not the publisher answers;
            `missing`.
        why: of what is missing, where it was sought; else empty.
    """

    kind: Kind
    why: str = ""


def locate(spec: ModelSpec, weights_dir: str | os.PathLike[str] | None = None) -> Place:
    """Where the pretrained weights of a model would come from.

    Args:
        spec: the model.
        weights_dir: folder with published files; None: `NCAP_WEIGHTS_DIR`.

    Raises:
        WeightsError: the folder does not exist.
    """
    if spec.weights == sources.RANDOM:
        return Place("random")
    if spec.build_pretrained is not None:
        return Place("in memory")
    if spec.family == "tiny":
        return Place("package")
    if spec.weights is None:
        return Place("missing", "its ModelSpec names none")
    if sources.own_file(spec) is not None:
        return Place("file")
    if sources.find_local(spec, weights_dir) is not None:
        return Place("folder")
    return _remote(spec, weights_dir)


def _remote(spec: ModelSpec, weights_dir: str | os.PathLike[str] | None) -> Place:
    """The cache, the publisher or none, for weights of which this machine has no file."""
    folders = sources.described(weights_dir)
    names = " or ".join((sources.published_name(spec), *spec.layout.other_files))
    if "://" not in (spec.weights or ""):
        return Place("missing", f"{names} is not in {folders}, and cannot be downloaded")
    on_hub = sources.held_by_hub(spec)
    if on_hub and importlib.util.find_spec("huggingface_hub") is None:
        return Place("missing", f"{spec.weights} needs the package huggingface_hub")
    if (sources.digest(spec) if on_hub else sources.cache_entry(spec)) is not None:
        return Place("cache")
    if not caching.offline():
        return Place("download")
    cache = "of the Hugging Face Hub" if on_hub else sources.cache_paths(spec)[0].parent
    return Place(
        "missing",
        f"{names} is not in {folders}, its copy is not in the cache {cache}, and NCAP_OFFLINE "
        f"forbids downloading {spec.weights}",
    )
