"""What a run is made of and was made with, for `run.json` and the report."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from ncap_jax._version import __version__
from ncap_jax.types import DataConfig, Dataset, ModelSpec, RankConfig

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "scipy")


def describe() -> dict[str, Any]:
    """Versions and devices, for `run.json`, reports and benchmark files."""
    import jax

    devices = jax.devices()
    return {
        "versions": {
            "ncap_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "platform": platform.platform(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})",
        "cores": os.cpu_count(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def run_facts(
    specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig, data_config: DataConfig
) -> dict[str, Any]:
    """The content of `run.json`: what the run is made of, and what it was made with."""
    from ncap_jax import data
    from ncap_jax.zoo.weights import sources

    return {
        "schema": 1,
        "config": dataclasses.asdict(config),
        "models": {
            spec.name: {
                "weights_sha256": sources.digest(spec, config.weights_dir)
                if config.weights == "pretrained"
                else None
            }
            for spec in specs
        },
        "data": {
            **data.statistics(dataset),
            "sha256": data_digest(dataset),
            "config": dataclasses.asdict(data_config),
            "info": dict(dataset.info),
        },
        **describe(),
    }


def data_digest(dataset: Dataset) -> str:
    """SHA-256 over labels and pixels; of streamed sets over the labels alone."""
    digest = hashlib.sha256()
    for part in (
        dataset.labels,
        dataset.validation_labels,
        dataset.images,
        dataset.validation_images,
    ):
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def command(
    specs: Sequence[ModelSpec],
    dataset: Any,
    config: RankConfig,
    data_config: DataConfig,
) -> str | None:
    """The shell command that makes the same run, or None where flags cannot say it.

    Flags cannot carry arrays, or models that are not in the registry.
    """
    from ncap_jax.zoo import MODELS

    if not isinstance(dataset, str | os.PathLike):
        return None
    if any(MODELS.get(spec.name) != spec for spec in specs):
        return None
    values: dict[str, Any] = {
        "models": ",".join(spec.name for spec in specs),
        "dataset": os.fspath(dataset),
    }
    for part in (data_config, config):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if value != field.default:
                values[field.name] = (
                    ",".join(map(str, value)) if isinstance(value, tuple) else value
                )
    flags = (f"--{name}={value}" for name, value in values.items())
    return shlex.join(["python", "-m", "ncap_jax", *flags])
