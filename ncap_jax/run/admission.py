"""Which models take part in a run: neither too large nor too slow for those who will use them.

Models are timed before the first one is trained, when nothing else computes.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from ncap_jax import caching, errors
from ncap_jax.measure import inference
from ncap_jax.options import RankConfig
from ncap_jax.types import Dataset, LeftOut, ModelSpec
from ncap_jax.zoo import catalogue, shapes

# At most as many of the published parameters belong to the classifier: the widest of timm's models
# has 8,192 features for 1,000 classes.
CLASSIFIER = 8_200_000
# What is published is rounded to ten thousand.
ROUNDED = 5_000
# Bytes of one parameter in training: its value, its gradient and Adam's two moments.
TRAINED_BYTES = 16
# Sentences on who is left out, at the beginning of a run; the others are counted.
NOTES = 8


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
    reasons = {name: _too_large(number, most) for name, number in numbers.items() if number > most}
    if len(reasons) == len(specs):
        smallest = min(numbers, key=lambda name: numbers[name])
        raise errors.ConfigError(
            f"max_parameters={most} leaves out all {len(specs)} models: the smallest, {smallest}, "
            f"has {numbers[smallest]:,}",
            f"Give at least {numbers[smallest]}, or other models",
        )
    return _without(specs, reasons)


def by_published_size(specs: Sequence[ModelSpec], most: int) -> Admitted:
    """The models that are not certainly too large, by what is published; nothing is built.

    Args:
        specs: the models.
        most: parameters.

    Raises:
        ConfigError: no model is left.
    """

    def sized(spec: ModelSpec) -> ModelSpec:
        published = catalogue.facts(spec).parameters
        if spec.parameters is not None or published is None:
            return spec
        large = published - ROUNDED - CLASSIFIER > most
        return dataclasses.replace(spec, parameters=published) if large else spec

    left = by_parameters(list(map(sized, specs)), most)
    names = {each.name for each in left.left_out}
    return Admitted(tuple(spec for spec in specs if spec.name not in names), left.left_out)


def by_size(specs: Sequence[ModelSpec], config: RankConfig) -> Admitted:
    """The models with at most `max_parameters`, which are counted in networks of shapes alone.

    Those that are certainly small enough, by what is published, are not built.

    Args:
        specs: the models.
        config: `max_parameters` is set.

    Raises:
        ConfigError: no model is left.
        ModelError: see `ncap_jax.zoo.shapes.checked`.
    """
    most = config.max_parameters
    assert most is not None
    found: list[ModelSpec] = []
    for spec in specs:
        published = catalogue.facts(spec).parameters if spec.parameters is None else None
        small = published is not None and published + ROUNDED <= most
        found += (spec,) if small else shapes.checked((spec,), config.input_size)
    return by_parameters(found, most)


def unfit(specs: Sequence[ModelSpec], config: RankConfig) -> tuple[LeftOut, ...]:
    """Those that cannot be built, cannot take the images, or have more than `max_parameters`."""
    found = []
    for spec in specs:
        try:
            (checked,) = shapes.checked((spec,), config.input_size)
        except Exception as error:  # of somebody else's code
            why = error.cause if isinstance(error, errors.NcapError) else str(error)
            found.append(LeftOut(spec.name, f"it failed before training: {why}"[:500], "failed"))
            continue
        most, number = config.max_parameters, checked.parameters
        if most is not None and number is not None and number > most:
            found.append(LeftOut(spec.name, _too_large(number, most)))
    return tuple(found)


def _too_large(number: int, most: int) -> str:
    return f"{number:,} parameters, more than max_parameters={most}"


def by_input_size(specs: Sequence[ModelSpec], most: int) -> Admitted:
    """The models whose own input is at most as many pixels wide.

    Args:
        specs: the models.
        most: pixels.

    Raises:
        ConfigError: no model is left.
    """
    reasons = {
        spec.name: f"{spec.input_size} pixels, more than max_input_size={most}"
        for spec in specs
        if spec.input_size > most
    }
    if len(reasons) == len(specs):
        smallest = min(spec.input_size for spec in specs)
        raise errors.ConfigError(
            f"max_input_size={most} leaves out all {len(specs)} models: the smallest input has "
            f"{smallest} pixels",
            f"Give at least {smallest}, or an input_size for all models",
        )
    return _without(specs, reasons)


def by_memory(specs: Sequence[ModelSpec], memory: int | None = None) -> Admitted:
    """The models whose training state fits the device, as far as their parameters are known.

    Activations are not counted: whoever is left out here could not be trained in any way.

    Args:
        specs: the models.
        memory: bytes of the device; None: found out.

    Raises:
        ConfigError: no model is left.
    """
    memory = device_memory() if memory is None else memory
    reasons = {}
    for spec in specs:
        number = spec.parameters or catalogue.facts(spec).parameters or 0
        if memory and number * TRAINED_BYTES > memory:
            reasons[spec.name] = (
                f"{number:,} parameters, which take {number * TRAINED_BYTES / 1e9:.1f} GB in "
                f"training, more than the {memory / 1e9:.1f} GB of the device"
            )
    if reasons and len(reasons) == len(specs):
        raise errors.ConfigError(
            f"none of {len(specs)} models can be trained on this device: {specs[0].name} has "
            f"{reasons[specs[0].name]}",
            "Give smaller models, or use a device with more memory",
        )
    return _without(specs, reasons)


def device_memory() -> int | None:
    """Bytes of the first device's memory; None: not known."""
    device = jax.local_devices()[0]
    stated = (device.memory_stats() or {}).get("bytes_limit")
    if stated is None and device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return stated


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
    most, found = config.max_latency_ms, latencies(specs, dataset, config)
    reasons = _slow(found, config)
    if len(reasons) == len(specs):
        fastest = min(found, key=lambda name: found[name])
        raise errors.ConfigError(
            f"max_latency_ms={most:g} leaves out all {len(specs)} models: the fastest, {fastest}, "
            f"took {found[fastest]:.3g}",
            "Give more, an input_size below the models' own, or other models",
        )
    return _without(specs, reasons)


def too_slow(
    specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig
) -> tuple[LeftOut, ...]:
    """Those that `by_latency` leaves out, be it all of them."""
    reasons = _slow(latencies(specs, dataset, config), config)
    return tuple(LeftOut(name, reason) for name, reason in reasons.items())


def _slow(found: Mapping[str, float], config: RankConfig) -> dict[str, str]:
    most = config.max_latency_ms
    return {
        name: f"{latency:.3g} ms for one image, more than max_latency_ms={most:g}"
        for name, latency in found.items()
        if most is not None and latency > most
    }


def latencies(specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig) -> dict[str, float]:
    """Milliseconds in which models label one image, by name, timed here.

    A model that cannot be timed is not among them; there is a warning.
    """
    found = dict[str, float]()
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
    return found


def _without(specs: Sequence[ModelSpec], reasons: Mapping[str, str]) -> Admitted:
    return Admitted(
        tuple(spec for spec in specs if spec.name not in reasons),
        tuple(LeftOut(name, reason) for name, reason in reasons.items()),
    )


def notes(left_out: Sequence[LeftOut]) -> list[str]:
    """Who is left out and why, a sentence each, for the beginning of a run; of many the first.

    Those that failed come first.
    """
    recalled = [each.name for each in left_out if each.step == "recall"]
    order = sorted(
        (each for each in left_out if each.step != "recall"), key=lambda e: e.step != "failed"
    )
    shown = order if len(order) <= NOTES else order[: NOTES - 1]
    lines = [f"Left out: {each.name}, {each.reason}." for each in shown]
    if len(shown) < len(order):
        lines.append(f"Left out: {len(order) - len(shown):,} more, all of them in ranking.json.")
    if recalled:
        names = ", ".join(recalled[:NOTES])
        more = f" and {len(recalled) - NOTES:,} more" if len(recalled) > NOTES else ""
        lines.append(f"Not recalled: {names}{more}.")
    return lines


def setting(dataset: Dataset, config: RankConfig) -> inference.Setting:
    """What the models of a run are used on."""
    height, width, channels = dataset.images.shape[1:]
    return inference.Setting(
        (height, width, channels), dataset.num_classes, config.input_size, config.dtype
    )
