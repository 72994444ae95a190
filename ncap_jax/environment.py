"""What a run was made with: versions, devices, configuration, weights. Written to `run.json`."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
from collections.abc import Sequence
from typing import Any

from ncap_jax._version import __version__
from ncap_jax.types import DataConfig, ModelSpec, RankConfig

RUN_FILE = "run.json"
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


def write_run(
    folder: pathlib.Path, config: RankConfig, specs: Sequence[ModelSpec], info: dict[str, Any]
) -> None:
    """Write `run.json` atomically, before the first step is made."""
    from ncap_jax.report.files import strict, write_atomically
    from ncap_jax.zoo.weights import sources

    content = {
        "schema": 1,
        "config": dataclasses.asdict(config),
        "models": [{"name": spec.name, "weights_sha256": sources.digest(spec)} for spec in specs],
        **info,
    }
    write_atomically(folder / RUN_FILE, json.dumps(strict(content), indent=1) + "\n")


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
