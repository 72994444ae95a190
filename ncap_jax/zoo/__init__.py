"""The models: `MODELS` by name, and `load_model`."""

from __future__ import annotations

import fnmatch
import importlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ncap_jax import errors
from ncap_jax.types import ModelSpec

if TYPE_CHECKING:
    from flax import nnx

# One file a family; each holds a tuple SPECS. Imported when the registry is first looked at.
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


class _Registry(Mapping[str, ModelSpec]):
    """name -> ModelSpec, filled on first use so that importing the package stays cheap."""

    def __init__(self) -> None:
        self._specs: dict[str, ModelSpec] = {}

    def _filled(self) -> dict[str, ModelSpec]:
        if not self._specs:
            for family in FAMILIES:
                module = importlib.import_module(f"ncap_jax.zoo.{family}")
                self._specs.update({spec.name: spec for spec in module.SPECS})
        return self._specs

    def __getitem__(self, name: str) -> ModelSpec:
        specs = self._filled()
        if name not in specs:
            # A KeyError for mapping semantics is turned into the named error by `find_model`.
            raise KeyError(name)
        return specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


MODELS: Mapping[str, ModelSpec] = _Registry()


def find_model(model: str | ModelSpec) -> ModelSpec:
    """A ModelSpec as it is, the registry's by name, or one of the Hugging Face Hub (`hf://...`).

    Raises:
        ModelError: no model of that name, near matches are named; no name at all.
        WeightsError: the Hub's files cannot be had.
    """
    if isinstance(model, ModelSpec):
        # Names become file names in a run's folder.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", model.name):
            raise errors.ModelError(
                f"{model.name!r} is no name for a model",
                "Use letters, digits and _ . + - and begin with a letter or digit",
            )
        return model
    if not isinstance(model, str):
        raise errors.ModelError(
            f"a {type(model).__name__} is neither a name nor a ModelSpec",
            "Wrap it by ncap_jax.from_module, from_linen or from_keras",
        )
    if model.startswith("hf://"):
        from ncap_jax.zoo import hub

        return hub.find(model)
    try:
        return MODELS[model]
    except KeyError:
        raise errors.ModelError(*errors.unknown_name("model", model, MODELS)) from None


def find_models(models: str | ModelSpec | Sequence[str | ModelSpec]) -> tuple[ModelSpec, ...]:
    """ModelSpecs of names, shell patterns (`tiny_*`) and specs, in order, each once.

    One of them need not stand in a list.

    Raises:
        ModelError: an unknown name, a pattern that matches nothing, two different models of one
            name, or no model at all.
    """
    found: dict[str, ModelSpec] = {}
    given: Any = models
    if isinstance(given, str | ModelSpec) or not isinstance(given, Iterable):
        given = [given]
    for model in given:
        if isinstance(model, str) and any(mark in model for mark in "*?["):
            matches = [MODELS[name] for name in fnmatch.filter(MODELS, model)]
            if not matches:
                raise errors.ModelError(
                    f"no model matches {model!r}", "See the names with --list_models"
                )
        else:
            matches = [find_model(model)]
        for spec in matches:
            if found.setdefault(spec.name, spec) != spec:
                raise errors.ModelError(
                    f"two different models are named {spec.name!r}", "Give each its own name"
                )
    if not found:
        raise errors.ModelError("no model is given", "Name one at least, or a pattern: tiny_*")
    return tuple(found.values())


def load_model(
    model: str | ModelSpec,
    weights: str | os.PathLike | None = "pretrained",
    *,
    weights_dir: str | os.PathLike | None = None,
    seed: int = 0,
    dtype: Any = None,
) -> nnx.Module:
    """Build a model and fill it with weights.

    Args:
        model: a name in `MODELS`, an `hf://` name, or a ModelSpec of your own.
        weights: `pretrained`; a path to a file of this architecture, or its `hf://` name; or
            None for a random initialisation, which is never chosen silently.
        weights_dir: folder that holds published files under their published names, looked into
            before anything is downloaded; default `NCAP_WEIGHTS_DIR`.
        seed: of the random initialisation.
        dtype: compute dtype (parameters are float32), None: that of the input.

    Returns:
        An `nnx.Module` in inference mode; `.features(x)` maps preprocessed float images
        (batch, height, width, 3) to (batch, `feature_width`).

    Raises:
        ModelError: unknown name.
        WeightsError: weights missing, damaged or of another architecture.
    """
    from flax import nnx

    from ncap_jax.zoo import functional
    from ncap_jax.zoo.weights import sources

    spec = find_model(model)

    def build():
        return spec.build(rngs=nnx.Rngs(seed), dtype=dtype)

    if weights is None:
        module = build()
    elif weights == "pretrained" and "pretrained" in spec.extra:  # an adapter holds the weights
        module = spec.extra["pretrained"](rngs=nnx.Rngs(seed), dtype=dtype)
    else:
        module = functional.build_to_fill(build, seed)
        sources.fill(module, spec, _weights_path(weights), weights_dir)
    module.eval()
    return module


def _weights_path(weights: str | os.PathLike) -> pathlib.Path | None:
    """The file that is meant; None: the model's own."""
    if weights == "pretrained":
        return None
    if str(weights).startswith("hf://"):
        from ncap_jax.zoo import hub

        return hub.fetch(str(weights))
    return pathlib.Path(weights)
