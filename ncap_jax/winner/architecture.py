"""From a ModelSpec to what a package says of it, and back to a network without its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ncap_jax import errors
from ncap_jax.finetune.steps import Network
from ncap_jax.types import Dataset, ModelSpec
from ncap_jax.winner.facts import Architecture, Kind, ModelFacts, Origin, Preprocessing
from ncap_jax.zoo import MODELS, functional, hub, probe, registry, shapes
from ncap_jax.zoo.preprocess import Preprocess
from ncap_jax.zoo.weights import sources


@dataclass(frozen=True)
class Skeleton:
    """A network without its weights.

    Attributes:
        network: its static parts.
        params: {"backbone", "head"} shapes of the parameters.
        state: {"backbone", "head"} shapes of batch statistics and the like; random streams are
            real.
    """

    network: Network
    params: dict[str, Any]
    state: dict[str, Any]


def architecture_of(spec: ModelSpec) -> Architecture:
    """Which network a ModelSpec builds, in the words of `model.json`."""
    begun = spec.build_pretrained
    name, kind = spec.name, "zoo"
    if isinstance(begun, hub.Pretrained):
        name, kind = begun.architecture.name, "hub"
    if spec.family == "timm" and registry.reference(spec) is not None:
        return Architecture("timm", spec.name)
    # Not the whole ModelSpec: a run at another input size has another feature width.
    if name not in MODELS or MODELS[name].build != spec.build:
        return Architecture("custom", spec.name)
    found: Kind = "hub" if kind == "hub" else "zoo"
    return Architecture(found, name)


def origin_of(
    spec: ModelSpec, weights: str = "pretrained", weights_dir: str | os.PathLike[str] | None = None
) -> Origin:
    """The weights that fine-tuning begins with.

    Args:
        spec: the model.
        weights: the run's option of that name.
        weights_dir: likewise.
    """
    if sources.RANDOM in (weights, spec.weights):
        return Origin(sources.RANDOM)
    if weights != "pretrained":
        return Origin(os.fspath(weights))
    begun = spec.build_pretrained
    source = begun.source if isinstance(begun, hub.Pretrained) else spec.weights or ""
    digest = sources.digest(spec, weights_dir) or ""
    return Origin(source, digest, spec.licence, spec.citation)


def preprocessing_of(spec: ModelSpec, dataset: Dataset, input_size: int | None) -> Preprocessing:
    """How a run brings the images of its data set to a model's input.

    Args:
        spec: the model.
        dataset: a checked set.
        input_size: the run's option of that name.
    """
    height, width, channels = map(int, dataset.images.shape[1:])
    size = input_size or spec.input_size
    return Preprocessing(spec.preprocessing, size, (height, width), channels)


def rebuild(facts: ModelFacts, spec: ModelSpec | None = None) -> Skeleton:
    """The network that a package's weights belong to; nothing is drawn or read.

    Args:
        facts: of the package.
        spec: of a model that is not in the zoo.

    Raises:
        ModelError: `spec` is missing, or of another model; this version lacks the architecture.
        ConfigError: this version lacks the preprocessing.
    """
    found = _find(facts, spec)
    pixels, dtype = facts.preprocessing, jnp.dtype(facts.dtype)
    module = shapes.shapes_of(found, dtype)
    in_zoo = spec is None and pixels.input_size == found.input_size
    width = found.feature_width if in_zoo else None
    width = width or shapes.feature_width(module, pixels.input_size)
    backbone, *of_backbone = functional.split(module)
    head, *of_head = probe.linear_head_shapes(width, len(facts.class_names), dtype=dtype)
    network = Network(
        backbone,
        head,
        Preprocess(pixels.mode, pixels.input_size, dtype),
        ("backbone", "head"),
    )
    params, state = ({"backbone": b, "head": h} for b, h in zip(of_backbone, of_head))
    return Skeleton(network, params, state)


def _find(facts: ModelFacts, spec: ModelSpec | None) -> ModelSpec:
    """The ModelSpec that builds a package's network."""
    kind, name = facts.architecture.kind, facts.architecture.name
    if spec is not None:
        if spec.name != name:
            raise errors.ModelError(
                f"the package holds the model {name!r}, and the ModelSpec is of {spec.name!r}",
                "Give the ModelSpec that the model was trained with",
            )
        return spec
    if kind == "custom":
        raise errors.ModelError(
            f"the package holds {name!r}, whose network is not in the zoo",
            "Load it with the ModelSpec that it was trained with: ncap_jax.load(folder, spec=...)",
        )
    if kind == "timm":
        return registry.find_model(f"{registry.TIMM}{name}")
    if name not in MODELS:
        raise errors.ModelError(
            f"this version of ncap_jax has no architecture {name!r}",
            "Use the version that saved the model, which its model.json names",
        )
    return MODELS[name]
