"""What is published of models: accuracy, size and family, known without loading anything.

The file catalogue.json holds it; `experiments.catalogue_table` makes it from tables that the
models' publishers maintain. An accuracy belongs to weights: a model that was made in Python has
none, whatever its name.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ncap_jax.types import ModelSpec
from ncap_jax.zoo.registry import MODELS
from ncap_jax.zoo.weights import sources

FILE = pathlib.Path(__file__).with_name("catalogue.json")
IMAGENET, CIFAR = "imagenet2012", "cifar10"
# What names of timm's own repositories on the Hub begin with.
TIMM_ON_HUB = "hf://timm/"


class Facts(NamedTuple):
    """What is published of one model.

    Attributes:
        accuracy: top-1, in percent, on the data set that it was trained on; None: not known.
        data: TFDS's name of that set; empty without an accuracy.
        parameters: with the classifier, rounded to ten thousand; None: not known.
        family: relatives have the same; empty: not known.
    """

    accuracy: float | None = None
    data: str = ""
    parameters: int | None = None
    family: str = ""


def facts(spec: ModelSpec) -> Facts:
    """What is published of a model; nothing but its family of one that nobody published."""
    if _is_of_timm(spec):
        return timm_models().get(spec.name, Facts(family=_stem(spec.name)))
    published = MODELS.get(spec.name)
    if published is None or _weights(published) != _weights(spec):
        return Facts(family=spec.family)
    if spec.family == "tiny":
        # One name for all embedded models: the architecture follows it, as in tiny_resnet_deep.
        family = "_".join(spec.name.split("_")[:2])
        return Facts(100 * sources.manifest()[spec.name]["source_accuracy"], CIFAR, None, family)
    found = content()["zoo"].get(spec.name)
    if found is None:
        return Facts(family=spec.family)
    return Facts(found, CIFAR if spec.source == CIFAR else IMAGENET, None, spec.family)


def is_random(spec: ModelSpec) -> bool:
    """Whether a model's pretrained form is drawn at random, or there is none."""
    return spec.build_pretrained is None and spec.weights in (None, sources.RANDOM)


@functools.cache
def content() -> Mapping[str, Any]:
    """What catalogue.json holds: `timm`, family -> name -> figures; `zoo`, name -> accuracy."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@functools.cache
def timm_models() -> Mapping[str, Facts]:
    """The name in timm with its tag -> what is published."""
    return {
        name: Facts(accuracy, IMAGENET, round(1e6 * millions), family)
        for family, models in content()["timm"].items()
        for name, (accuracy, millions) in models.items()
    }


def _is_of_timm(spec: ModelSpec) -> bool:
    """Whether a model has weights that timm publishes."""
    if spec.build_pretrained is not None:
        return str(getattr(spec.build_pretrained, "source", "")).startswith(TIMM_ON_HUB)
    return spec.family == "timm" and spec.weights != sources.RANDOM


def _weights(spec: ModelSpec) -> tuple[Any, ...]:
    return spec.weights, spec.build_pretrained


def _stem(name: str) -> str:
    """The letters that an architecture's name begins with: `resnet` of `resnet50d.ra2_in1k`."""
    found = re.match("[a-z]+", name.lower())
    return found[0] if found else ""
