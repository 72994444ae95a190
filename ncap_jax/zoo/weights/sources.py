"""Where a model's pretrained weights are, and which reader they need."""

from __future__ import annotations

import functools
import importlib.resources
import json
import pathlib
from typing import Any

from flax import nnx

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import store

FOLDER = "ncap_jax.zoo.weights"


def fill(module: nnx.Module, spec: ModelSpec, path: pathlib.Path | None = None) -> None:
    """Fill a module with its pretrained weights, or with those in a file.

    Args:
        module: what `spec.build` returned; filled in place.
        spec: says where the published weights are.
        path: a file to read instead.

    Raises:
        WeightsError: the model has no pretrained weights, or they cannot be read.
    """
    if path is not None:
        store.load_module(module, path)
    elif spec.family == "tiny":
        entry = manifest()[spec.name]
        with importlib.resources.as_file(importlib.resources.files(FOLDER) / entry["file"]) as file:
            store.load_module(module, file, entry["sha256"])
    elif spec.weights is not None:
        store.load_module(module, spec.weights, spec.sha256)
    else:
        raise errors.WeightsError(
            f"{spec.name} has no pretrained weights",
            "Give a file, or ask for random weights (weights=None)",
        )


def digest(spec: ModelSpec) -> str | None:
    """SHA-256 of the model's pretrained weights file, where it is known."""
    return manifest()[spec.name]["sha256"] if spec.family == "tiny" else spec.sha256


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """What is shipped: name -> file, SHA-256, source accuracy, seed and training recipe."""
    text = (importlib.resources.files(FOLDER) / "manifest.json").read_text(encoding="utf-8")
    return json.loads(text)["models"]
