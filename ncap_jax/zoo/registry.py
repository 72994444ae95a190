"""The registry: every model of the zoo by its name."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.lists import lists

# One module a family; each holds a tuple SPECS. Imported when the registry is first looked at.
FAMILIES = (
    "tiny",
    "mobilenet",
    "vgg",
    "resnet",
    "densenet",
    "inception",
    "inceptionresnet",
    "xception",
    "alexnet",
    "cifar_resnet",
    "squeezenet",
    "folded",
    "vit",
    "convnext",
)
# Names that begin with it are timm's; nothing of PyTorch is imported before one is asked for.
TIMM = "timm:"
# Names become file names in a run's folder.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class Registry(Mapping[str, ModelSpec]):
    """name -> ModelSpec, filled on first use so that importing the package stays cheap.

    Args:
        families: names of modules of `ncap_jax.zoo` that hold a tuple `SPECS`.
    """

    def __init__(self, families: Sequence[str]) -> None:
        self._families = tuple(families)
        self._specs: dict[str, ModelSpec] = {}

    def _filled(self) -> dict[str, ModelSpec]:
        if not self._specs:
            modules = [importlib.import_module(f"ncap_jax.zoo.{name}") for name in self._families]
            self._specs = {spec.name: spec for module in modules for spec in module.SPECS}
        return self._specs

    def __getitem__(self, name: str) -> ModelSpec:
        return self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


MODELS: Mapping[str, ModelSpec] = Registry(FAMILIES)


def find_model(model: str | ModelSpec) -> ModelSpec:
    """The ModelSpec of a name: in the registry, timm's (`timm:...`), or the Hub's (`hf://...`).

    A ModelSpec comes back as it is.

    Raises:
        ModelError: no model has that name (the error lists similar ones), a list has it, or the
            argument is not a name.
        WeightsError: the Hub's files cannot be fetched.
    """
    if isinstance(model, ModelSpec):
        if not _NAME.fullmatch(model.name):
            raise errors.ModelError(
                f"{model.name!r} cannot be the name of a model",
                "Use letters, digits and _ . + - and begin with a letter, a digit or _",
            )
        return model
    if not isinstance(model, str):
        raise errors.ModelError(
            f"a {type(model).__name__} is neither a name nor a ModelSpec",
            "Wrap it with ncap_jax.from_module, from_linen, from_keras or from_torch",
        )
    if model.startswith("hf://"):
        return find_hub_model(model)
    if model.startswith(TIMM):
        return _timm().find(model)
    if model in lists():
        raise errors.ModelError(
            f"{model!r} is a list of {len(lists()[model])} models",
            f"Give it where several may stand, or one of them, such as {lists()[model][0]}",
        )
    if model not in MODELS:
        raise errors.ModelError(*errors.unknown_name("model", model, [*MODELS, *lists()]))
    return MODELS[model]


@functools.cache
def find_hub_model(name: str) -> ModelSpec:
    """The ModelSpec of an `hf://` name; its files are looked up once in a process."""
    from ncap_jax.zoo import hub

    return hub.find(name, MODELS)


def _timm() -> Any:
    # By name, as the families are: it builds on modules that look models up here.
    return importlib.import_module("ncap_jax.zoo.timm_models")


def reference(spec: ModelSpec) -> str | None:
    """The name by which `find_model` finds this model; None: it was made in Python."""
    if MODELS.get(spec.name) == spec:
        return spec.name
    names = [f"{TIMM}{spec.name}"] if spec.family == TIMM[:-1] else []
    names += filter(None, [getattr(spec.build_pretrained, "source", None)])
    for name in names:
        with contextlib.suppress(errors.NcapError):
            if isinstance(name, str) and _as_named(find_model(name), spec) == spec:
                return name
    return None


def _as_named(found: ModelSpec, spec: ModelSpec) -> ModelSpec:
    """What was found, with the figures that a run adds (`ncap_jax.zoo.shapes.checked`)."""
    return dataclasses.replace(found, feature_width=spec.feature_width, parameters=spec.parameters)


class Found(NamedTuple):
    """What was found for names, patterns and specs.

    Attributes:
        specs: the models, in order, each once.
        by_pattern: names of those that only a pattern or a list asked for.
    """

    specs: tuple[ModelSpec, ...]
    by_pattern: frozenset[str] = frozenset()


def find_models(models: str | ModelSpec | Sequence[str | ModelSpec]) -> tuple[ModelSpec, ...]:
    """The ModelSpecs of names, shell patterns (`tiny_*`, `timm:convnext*`), lists and specs.

    Each comes once. A single name, pattern or spec needs no brackets. Lists of timm's models have
    names such as `small` (`ncap_jax.zoo.lists`).

    Raises:
        ModelError: an unknown name, a pattern that matches nothing, two different models with
            one name, or an empty list.
    """
    return search(models).specs


def search(models: str | ModelSpec | Sequence[str | ModelSpec]) -> Found:
    """As `find_models`, and which of the models only a pattern or a list asked for.

    Raises:
        ModelError: see `find_models`.
    """
    given: Any = models
    if isinstance(given, str | ModelSpec) or not isinstance(given, Iterable):
        given = [given]
    found: dict[str, ModelSpec] = {}
    named: set[str] = set()
    for model in given:
        for spec in _matches(model):
            if found.setdefault(spec.name, spec) != spec:
                raise errors.ModelError(
                    f"two different models are named {spec.name!r}", "Give each its own name"
                )
            if not (_is_pattern(model) or _is_list(model)):
                named.add(spec.name)
    if not found:
        raise errors.ModelError(
            "no model is given", "Give at least one name, or a pattern such as tiny_*"
        )
    return Found(tuple(found.values()), frozenset(found) - named)


def _is_pattern(model: str | ModelSpec) -> bool:
    return isinstance(model, str) and any(mark in model for mark in "*?[")


def _is_list(model: str | ModelSpec) -> bool:
    return isinstance(model, str) and model in lists()


def _matches(model: str | ModelSpec) -> list[ModelSpec]:
    """All models of a pattern or a list, or the one model of a name or spec."""
    if isinstance(model, str) and _is_list(model):
        return [find_model(name) for name in lists()[model]]
    if not isinstance(model, str) or not _is_pattern(model):
        return [find_model(model)]
    if model.startswith(TIMM):
        return _timm().match(model)
    names = fnmatch.filter(MODELS, model)
    if not names:
        raise errors.ModelError(f"no model matches {model!r}", "See the names with --list_models")
    return [MODELS[name] for name in names]
