"""The job that follows from what was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ncap_jax import data
from ncap_jax.data.further_splits import check_splits
from ncap_jax.finetune import mesh
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import facts
from ncap_jax.run.checks import check_run, licensed, obtainable, warn_of_few_images
from ncap_jax.run.job import Job
from ncap_jax.run.request import Request
from ncap_jax.types import Dataset, ModelSpec
from ncap_jax.zoo import shapes
from ncap_jax.zoo.registry import search


def prepare(request: Request) -> tuple[Job, dict[str, Any]]:
    """The job and the content of its `run.json`; what cannot work is refused here."""
    config, data_config = request.config, request.data_config
    specs = obtainable(licensed(search(request.models), config), config)
    check_run(config, specs)
    specs = shapes.checked(specs, config.input_size)
    dataset = data.load_dataset(request.dataset, data_config, seed=config.seed)
    check_splits(dataset, config.validation_splits - 1)
    mesh.check_mesh(config, len(dataset.labels))
    seen = seen_before(specs, dataset, config, data_config)
    job = Job(specs, dataset, config, seen)
    command = facts.command(specs, request.dataset, config, data_config)
    about = {**facts.run_facts(job, data_config), "command": command}
    warn_of_few_images(about["data"]["num_validation"] * config.validation_splits)
    return job, about


def seen_before(
    specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig, data_config: DataConfig
) -> dict[str, str]:
    """Model -> how its weights have seen the images before; warns of them."""
    trained = [
        spec
        for spec in specs
        if config.weights == "pretrained" and spec.weights != "random" and spec.source
    ]
    sources = {
        source: data.seen_by(source, dataset, data_config.data_dir)
        for source in sorted({spec.source for spec in trained})
    }
    found = {spec.name: sources[spec.source] for spec in trained if sources[spec.source]}
    for why in sorted(set(found.values())):
        names = ", ".join(name for name in found if found[name] == why)
        warnings.warn(f"{names}: {why}", stacklevel=2)
    return found
