"""What a run is made of and was made with, for `run.json` and the report."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import shlex
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import data, errors
from ncap_jax._version import __version__
from ncap_jax.data.images import digest, gather
from ncap_jax.data.labels import is_text
from ncap_jax.data.split import stratified_subset
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run.processes import thread_count
from ncap_jax.types import Dataset, ModelSpec, RunInfo
from ncap_jax.zoo import preprocess, registry
from ncap_jax.zoo.weights import sources

if TYPE_CHECKING:
    from ncap_jax.run.job import Job

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "scipy")


def describe() -> dict[str, Any]:
    """Versions and devices, for `run.json`, reports and benchmark files."""
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
        "threads": thread_count(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def run_facts(job: Job, data_config: DataConfig) -> dict[str, Any]:
    """The content of `run.json`: what the run is made of, and what it was made with.

    Without models, as long as it is not decided which they are.
    """
    config, dataset = job.config, job.dataset
    return {
        "schema": 1,
        "config": dataclasses.asdict(config),
        "models": {} if job.recall else model_facts(job.specs, config),
        "data": {
            **data.statistics(dataset),
            "sha256": data_digest(dataset),
            "config": dataclasses.asdict(data_config),
            "info": dict(dataset.info),
        },
        **describe(),
    }


def model_facts(specs: Sequence[ModelSpec], config: RankConfig) -> dict[str, dict[str, Any]]:
    """Name -> what is fixed of a model in its run's folder."""
    pretrained = config.weights == "pretrained"
    return {
        spec.name: {
            "weights_sha256": sources.digest(spec, config.weights_dir) if pretrained else None,
            **_named_otherwise(spec),
        }
        for spec in specs
    }


def _named_otherwise(spec: ModelSpec) -> dict[str, str]:
    """How a model is asked for, where that is not its name: `timm:...`, `hf://...`."""
    name = registry.reference(spec)
    return {} if name in (None, spec.name) else {"reference": str(name)}


def data_digest(dataset: Dataset) -> str:
    """SHA-256 over labels and pixels; of streamed sets over every image's checksum."""
    parts: Any = (
        dataset.labels,
        dataset.validation_labels,
        dataset.images,
        dataset.validation_images,
    )
    return digest(parts)


def command(
    specs: Sequence[ModelSpec], dataset: Any, config: RankConfig, data_config: DataConfig
) -> str | None:
    """The shell command that makes the same run, or None where flags cannot say it.

    Flags cannot carry arrays, models that have no name to find them by, or paths that are not text.
    """
    if not isinstance(dataset, str | os.PathLike):
        return None
    references = [registry.reference(spec) for spec in specs]
    if None in references:
        return None
    values: dict[str, Any] = {
        "models": ",".join(filter(None, references)),
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
    line = shlex.join(["python", "-m", "ncap_jax", *flags])
    return line if is_text(line) else None


def run_info(job: Job, facts: Mapping[str, Any], seconds: float | None) -> RunInfo:
    """A run's facts in the words and order of the report.

    Args:
        job: the run.
        facts: content of its `run.json`.
        seconds: wall time of the run, over all its calls; None: not known.
    """
    about = facts["data"]
    height, width, channels = about["image_shape"]
    return RunInfo(
        versions=facts["versions"],
        device=facts["device"],
        data={
            "data set": about["name"],
            "training images": about["num_train"],
            "validation images": _validation_images(job, about["num_validation"]),
            "pixels": f"{height} × {width}, {'grey' if channels == 1 else 'colour'}",
            "largest class / smallest": f"{about['imbalance']:.2f}",
            "always the largest class": f"{100 * about['majority_accuracy']:.1f} % right",
            **{key.replace("_", " "): in_words(note) for key, note in job.dataset.info.items()},
        },
        majority_accuracy=about["majority_accuracy"],
        num_validation=about["num_validation"] * job.config.validation_splits,
        class_names=tuple(job.dataset.class_names or ()),
        contact_sheet_png=sheet_if_possible(job),
        seconds=seconds,
        command=facts["command"],
        seen=job.seen,
    )


def _validation_images(job: Job, number: int) -> int | str:
    splits = job.config.validation_splits
    return number if splits == 1 else f"{number} in each of {splits} splits"


def sample_sheet(spec: ModelSpec, dataset: Dataset, config: RankConfig, n: int = 24) -> bytes:
    """A PNG of training samples as this model's input shows them: resized, scaled, its channels."""
    chosen = stratified_subset(dataset.labels, n, config.seed)
    images = jnp.asarray(gather(dataset.images, chosen))
    size = config.input_size or spec.input_size
    pixels = np.asarray(preprocess.preprocess(images, spec.preprocessing, size))
    return data.contact_sheet(pixels, dataset.labels[chosen], n, class_names=dataset.class_names)


def sheet_if_possible(job: Job) -> bytes | None:
    """The sheet of the first model, or None, with a warning, where an image is gone.

    All models have been trained by now: no result may be lost for a picture in the report.
    """
    try:
        return sample_sheet(job.specs[0], job.dataset, job.config)
    except errors.DataError as error:
        warnings.warn(f"the report shows no sample images: {error}", stacklevel=2)
        return None


def in_words(note: Any, limit: int = 160) -> str:
    """A note of the data stage (text, number, list, mapping) as one line for the report."""
    if isinstance(note, Mapping):
        text = ", ".join(f"{key}: {in_words(item)}" for key, item in note.items())
    elif isinstance(note, list | tuple):
        text = ", ".join(in_words(item) for item in note)
    else:
        text = str(note)
    return text if len(text) <= limit else text[: limit - 1] + "…"
