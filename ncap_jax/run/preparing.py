"""The job that follows from what was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

from ncap_jax import data
from ncap_jax.data.further_splits import check_splits
from ncap_jax.finetune import mesh
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import admission, facts
from ncap_jax.run.checks import check_run, licensed, obtainable, warn_of_few_images
from ncap_jax.run.job import Job
from ncap_jax.run.request import Request
from ncap_jax.types import Dataset, LeftOut, ModelSpec
from ncap_jax.zoo import shapes
from ncap_jax.zoo.registry import Found, search


def prepare(request: Request, only: Collection[str] | None = None) -> tuple[Job, dict[str, Any]]:
    """The job and the content of its `run.json`; what cannot work is refused here.

    Args:
        request: what was asked for.
        only: names of the models that take part, whatever their use costs; None: all that were
            asked for and are neither too large nor too slow.
    """
    config, data_config = request.config, request.data_config
    found, small = _small_enough(licensed(search(request.models), config), config, only)
    specs = obtainable(Found(small.specs, found.by_pattern), config)
    check_run(config, specs)
    if only is not None or config.max_parameters is None:  # else they have been
        specs = shapes.checked(specs, config.input_size)
    dataset = data.load_dataset(request.dataset, data_config, seed=config.seed)
    check_splits(dataset, config.validation_splits - 1)
    mesh.check_mesh(config, len(dataset.labels))
    fast = admission.Admitted(specs)
    if only is None and config.max_latency_ms is not None:
        fast = admission.by_latency(specs, dataset, config)
    seen = seen_before(fast.specs, dataset, config, data_config)
    job = Job(fast.specs, dataset, config, seen, (*small.left_out, *fast.left_out))
    asked = _asked(found.specs, specs, small.left_out)
    command = facts.command(asked, request.dataset, config, data_config)
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


def _small_enough(
    found: Found, config: RankConfig, only: Collection[str] | None
) -> tuple[Found, admission.Admitted]:
    """The models that were asked for, and those of them that are small enough."""
    if only is not None:
        found = Found(tuple(spec for spec in found.specs if spec.name in only), found.by_pattern)
    if only is not None or config.max_parameters is None:
        return found, admission.Admitted(found.specs)
    specs = shapes.checked(found.specs, config.input_size)
    return found, admission.by_parameters(specs, config.max_parameters)


def _asked(
    found: tuple[ModelSpec, ...], specs: tuple[ModelSpec, ...], left_out: tuple[LeftOut, ...]
) -> tuple[ModelSpec, ...]:
    """The models that a command must name to come to the same run, in the order they were given.

    Args:
        found: all that were asked for.
        specs: those whose weights are within reach.
        left_out: those that were not even looked for.
    """
    known, too_large = {spec.name: spec for spec in specs}, {each.name for each in left_out}
    return tuple(
        known.get(spec.name, spec) for spec in found if spec.name in known or spec.name in too_large
    )
