"""Which models take part in a run: neither too large nor too slow for those who will use them.

Models are timed before the first one is trained, when nothing else computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ncap_jax import caching, errors
from ncap_jax.measure import inference
from ncap_jax.options import RankConfig
from ncap_jax.types import Dataset, LeftOut, ModelSpec


class Admitted(NamedTuple):
    """Models that take part, and those that do not."""

    specs: tuple[ModelSpec, ...]
    left_out: tuple[LeftOut, ...] = ()


def by_parameters(specs: Sequence[ModelSpec], most: int) -> Admitted:
    """The models with at most as many parameters; one whose number is not known takes part.

    Args:
        specs: the models, checked (`ncap_jax.zoo.shapes.checked`).
        most: parameters.

    Raises:
        ConfigError: no model is left.
    """
    numbers = {spec.name: spec.parameters for spec in specs if spec.parameters is not None}
    reasons = {
        name: f"{number:,} parameters, more than max_parameters={most}"
        for name, number in numbers.items()
        if number > most
    }
    if len(reasons) == len(specs):
        smallest = min(numbers, key=lambda name: numbers[name])
        raise errors.ConfigError(
            f"max_parameters={most} leaves out all {len(specs)} models: the smallest, {smallest}, "
            f"has {numbers[smallest]:,}",
            f"Give at least {numbers[smallest]}, or other models",
        )
    return _without(specs, reasons)


def by_latency(specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig) -> Admitted:
    """The models that label one image in at most `config.max_latency_ms`, timed here.

    A model that cannot be timed takes part, with a warning.

    Args:
        specs: the models.
        dataset: its images.
        config: of the run; `max_latency_ms` is set.

    Raises:
        ConfigError: no model is left.
    """
    most, found = config.max_latency_ms, dict[str, float]()
    for spec in specs:
        try:
            speed = inference.speed(spec, setting(dataset, config), batch=1)
        except Exception as error:  # of somebody else's code
            warnings.warn(
                f"{spec.name} takes part although its latency is not known: "
                f"{type(error).__name__}: {error}"[:500],
                stacklevel=2,
            )
        else:
            found[spec.name] = 1000 * speed.seconds
    caching.forget_compiled_programs()  # training needs the memory, and other programs
    reasons = {
        name: f"{latency:.3g} ms for one image, more than max_latency_ms={most:g}"
        for name, latency in found.items()
        if most is not None and latency > most
    }
    if len(reasons) == len(specs):
        fastest = min(found, key=lambda name: found[name])
        raise errors.ConfigError(
            f"max_latency_ms={most:g} leaves out all {len(specs)} models: the fastest, {fastest}, "
            f"took {found[fastest]:.3g}",
            "Give more, an input_size below the models' own, or other models",
        )
    return _without(specs, reasons)


def _without(specs: Sequence[ModelSpec], reasons: Mapping[str, str]) -> Admitted:
    return Admitted(
        tuple(spec for spec in specs if spec.name not in reasons),
        tuple(LeftOut(name, reason) for name, reason in reasons.items()),
    )


def notes(left_out: Sequence[LeftOut]) -> list[str]:
    """Who is left out and why, a sentence each, for the beginning of a run."""
    return [f"Left out: {each.name}, {each.reason}." for each in left_out]


def setting(dataset: Dataset, config: RankConfig) -> inference.Setting:
    """What the models of a run are used on."""
    height, width, channels = dataset.images.shape[1:]
    return inference.Setting(
        (height, width, channels), dataset.num_classes, config.input_size, config.dtype
    )
