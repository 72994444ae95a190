"""The job that follows from what was asked for."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ncap_jax import data, distributed
from ncap_jax.data.further_splits import check_splits
from ncap_jax.finetune import mesh
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import admission, facts
from ncap_jax.run.checks import (
    check_run,
    licensed,
    obtainable,
    recalled,
    warn_of_few_images,
)
from ncap_jax.run.job import Job
from ncap_jax.run.recall_files import Decision
from ncap_jax.run.request import Request
from ncap_jax.selection import race
from ncap_jax.types import Dataset, FunnelStep, LeftOut, ModelSpec
from ncap_jax.zoo import shapes
from ncap_jax.zoo.registry import Found, search

NOT_ALLOWED = "its licence does not say that it allows commercial use"
NOT_HERE = "its weights are not within reach"


def prepare(request: Request, only: Collection[str] | None = None) -> tuple[Job, dict[str, Any]]:
    """The job and the content of its `run.json`; what cannot work is refused here.

    Of a long list, which models take part is not decided yet: the job says how many
    (`Job.recall`), and `settle` makes the rest once it is.

    Args:
        request: what was asked for.
        only: names of the models that take part, whatever their use costs; None: all that were
            asked for and are neither too large nor too slow.
    """
    config, data_config = request.config, request.data_config
    admitted = _admitted(request, only)
    specs, kept = admitted.specs, admitted.kept
    dataset = data.load_dataset(request.dataset, data_config, seed=config.seed)
    check_splits(dataset, config.validation_splits - 1)
    mesh.check_mesh(config, len(dataset.labels))
    left_out = admitted.left_out
    if only is None and config.max_latency_ms is not None and not kept:
        fast = admission.by_latency(specs, dataset, config)
        specs, left_out = fast.specs, (*left_out, *fast.left_out)
    seen = {} if kept else seen_before(specs, dataset, config, data_config)
    steps = _funnel(admitted, len(specs))
    strategy = partial(
        race.settled, models=kept or len(specs), together=distributed.is_distributed()
    )
    job = Job(specs, dataset, strategy(config), seen, left_out, kept, steps)
    plain = dataclasses.replace(config, strategy="auto")
    asked = plain if strategy(plain) == job.config else config  # what goes without saying
    command = facts.command(admitted.asked, request.dataset, asked, data_config)
    about = {**facts.run_facts(job, data_config), "command": command}
    warn_of_few_images(about["data"]["num_validation"] * config.validation_splits)
    return job, about


class _Candidates(NamedTuple):
    """Who may take part, as far as it is known without the data.

    Attributes:
        number: of the models that were asked for.
        asked: those that a command must name to come to the same run.
        specs: those that are left.
        left_out: those that an option's limit leaves out.
        kept: how many of `specs` a recall will keep; 0: there is none.
        seconds: that this took.
    """

    number: int
    asked: tuple[ModelSpec, ...]
    specs: tuple[ModelSpec, ...]
    left_out: tuple[LeftOut, ...]
    kept: int
    seconds: float


def _admitted(request: Request, only: Collection[str] | None) -> _Candidates:
    """The candidates that licence, size and weights admit."""
    config, began = request.config, time.monotonic()
    asked = search(request.models)
    allowed = licensed(asked, config)
    found, small = _small_enough(allowed, config, only)
    specs = obtainable(Found(small.specs, found.by_pattern), config)
    long = only is None and recalled(config, len(small.specs)) > 0
    kept = recalled(config, len(specs)) if long else 0
    fitting = admission.by_memory(specs) if kept else admission.Admitted(specs)
    if kept:
        kept = recalled(config, len(fitting.specs))
    if long and not kept and config.max_parameters is not None:  # without their weights, a few
        sized = admission.by_size(fitting.specs, config)
        fitting = admission.Admitted(sized.specs, (*fitting.left_out, *sized.left_out))
    check_run(config, fitting.specs, kept)
    left_out = (
        *_gone(asked.specs, allowed.specs, NOT_ALLOWED),
        *small.left_out,
        *_gone(small.specs, specs, NOT_HERE),
        *fitting.left_out,
    )
    return _Candidates(
        len(asked.specs) if only is None else len(found.specs),
        _asked(found.specs, specs, small.left_out),
        fitting.specs if kept else _checked(fitting.specs, config, only),
        left_out,
        kept,
        time.monotonic() - began,
    )


def _gone(
    before: Sequence[ModelSpec], after: Sequence[ModelSpec], reason: str
) -> tuple[LeftOut, ...]:
    """The models of `before` that are not in `after`."""
    names = {spec.name for spec in after}
    return tuple(LeftOut(spec.name, reason) for spec in before if spec.name not in names)


def _checked(
    specs: Sequence[ModelSpec], config: RankConfig, only: Collection[str] | None
) -> tuple[ModelSpec, ...]:
    """The models with their widths and sizes, each of which is built once for that."""
    fresh = only is not None or config.max_parameters is None  # else most have been checked
    return tuple(
        each
        for spec in specs
        for each in (
            shapes.checked((spec,), config.input_size)
            if fresh or spec.feature_width is None
            else (spec,)
        )
    )


def _funnel(admitted: _Candidates, left: int) -> tuple[FunnelStep, ...]:
    """How many models were asked for, and how many the options' limits left."""
    return (
        FunnelStep("candidates", admitted.number),
        FunnelStep("filtered", left, admitted.seconds),
    )


def settle(
    job: Job, about: Mapping[str, Any], data_config: DataConfig, decision: Decision
) -> tuple[Job, dict[str, Any]]:
    """The job and the content of its `run.json` once a recall has chosen its models.

    Args:
        job: of which the models are the candidates.
        about: content of `run.json` so far.
        data_config: how the data set was read.
        decision: of the recall.
    """
    config, known = job.config, {spec.name: spec for spec in job.specs}
    chosen = tuple(known[name] for name in decision.chosen)
    specs = shapes.checked(chosen, config.input_size)
    job = dataclasses.replace(
        job,
        specs=specs,
        seen=seen_before(specs, job.dataset, config, data_config),
        left_out=(*job.left_out, *decision.left_out),
        recall=0,
        in_order=True,
        funnel=(*job.funnel, FunnelStep("recalled", len(specs), decision.seconds)),
    )
    return job, {**about, "models": facts.model_facts(specs, config)}


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
        return found, admission.Admitted(found.specs)
    specs, left_out = found.specs, tuple[LeftOut, ...]()
    if config.max_input_size is not None and config.input_size is None:
        specs, left_out = admission.by_input_size(specs, config.max_input_size)
    if config.max_parameters is not None:
        small = admission.by_published_size(specs, config.max_parameters)
        if not recalled(config, len(small.specs)):
            # A long list is not built for it: only those that a recall would choose are.
            counted = admission.by_size(small.specs, config)
            small = admission.Admitted(counted.specs, (*small.left_out, *counted.left_out))
        specs, left_out = small.specs, (*left_out, *small.left_out)
    return found, admission.Admitted(specs, left_out)


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
