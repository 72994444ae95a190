"""timm's models as candidates: `timm:NAME`, `timm:NAME.TAG`, and patterns of either.

    timm:resnet50                 the architecture, with the weights that timm takes by default
    timm:resnet50.a1_in1k         other weights of it
    timm:convnext*                all architectures of that pattern, each with its default weights
    timm:vit_*.augreg*            with a point in the pattern: all weights

Input size, normalisation, crop, interpolation, licence and the address of the weights are those of
timm's `pretrained_cfg`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo import timm_networks
from ncap_jax.zoo.preprocess import Scaling
from ncap_jax.zoo.timm_networks import SCHEME, TimmSource, create
from ncap_jax.zoo.torch_models import (
    adapted,
    arrays_of,
    drawing,
    import_torch,
    kept_names,
    skeleton,
)

FAMILY = "timm"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class TimmBuilder:
    """Builds an architecture of timm's, drawn at random by timm's own initialisation."""

    source: TimmSource

    def __call__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        """The candidate; of shapes alone while JAX traces.

        Raises:
            ModelError: it cannot be built.
        """
        key = rngs.params()
        if isinstance(key, jax.core.Tracer):
            params, state = _shapes(skeleton(self.source))
        else:
            import_torch(self.source.name)
            with drawing(int(jax.random.bits(key))):
                params, state = arrays_of(create(self.source.architecture))
        return adapted(self.source, params, state, rngs, dtype)

    def published(self, arrays: Mapping[str, np.ndarray], where: str) -> Mapping[str, np.ndarray]:
        """A file's arrays under our names; see `ncap_jax.zoo.timm_networks.published`."""
        return timm_networks.published(self.source, arrays, where)


def _shapes(module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Zeros in the shapes of a module's parameters and state."""
    saved = module.state_dict()

    def zeros(names: Sequence[str]) -> dict[str, Any]:
        kinds = {name: str(saved[name].dtype).removeprefix("torch.") for name in names}
        return {
            name: jnp.zeros(tuple(saved[name].shape), jax.dtypes.canonicalize_dtype(kind))
            for name, kind in kinds.items()
        }

    params, state = map(zeros, kept_names(module))
    return params, state


def find(name: str) -> ModelSpec:
    """The candidate behind a `timm:` name.

    Raises:
        ModelError: timm or what runs it is not installed, or timm has no such model.
    """
    import_torch(name)
    return _find(name.removeprefix(SCHEME))


@functools.cache
def _find(name: str) -> ModelSpec:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise errors.ModelError(*errors.unknown_name("timm model", architecture, known))
    if tag and name not in _pretrained():
        known = timm.list_pretrained(f"{architecture}.*")
        raise errors.ModelError(*errors.unknown_name("timm model", name, known))
    return spec_of(architecture, timm.models.get_pretrained_cfg(name).to_dict())


@functools.cache
def _pretrained() -> frozenset[str]:
    """All names with a tag, listed once: a long pattern asks for each of them."""
    import timm

    return frozenset(timm.list_pretrained())


def match(pattern: str) -> list[ModelSpec]:
    """The candidates of a `timm:` pattern, in timm's order.

    Raises:
        ModelError: timm or what runs it is not installed, or nothing matches.
    """
    import_torch(pattern)
    import timm

    wanted = pattern.removeprefix(SCHEME)
    names = timm.list_models(wanted, pretrained="." in wanted)
    if not names:
        raise errors.ModelError(
            f"no model of timm matches {wanted!r}",
            f"See the names with python -c \"import timm; print(timm.list_models('{wanted}'))\"",
        )
    return list(map(_find, names))


def spec_of(architecture: str, config: Mapping[str, Any]) -> ModelSpec:
    """A candidate from timm's description of it.

    Args:
        architecture: timm's name, without a tag.
        config: the fields of `pretrained_cfg`.
    """
    tag = config.get("tag") or ""
    name = architecture if tag in ("", UNTRAINED) else f"{architecture}.{tag}"
    repository, file = config.get("hf_hub_id"), f"{name}.safetensors"
    return ModelSpec(
        name=name,
        build=TimmBuilder(TimmSource(architecture)),
        input_size=config["input_size"][1],
        preprocessing=scaling_of(config).text,
        weights=f"hf://{repository}" if repository else file,
        source="imagenet2012" if re.search(r"in(1k|12k|21k|22k)", tag) else "",
        licence=licence_of(config),
        citation=citation_of(config),
        description=f"timm's {architecture}",
        family=FAMILY,
        layout=WeightsLayout("timm", file=file, other_files=(f"{name}/model.safetensors",)),
    )


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    """How timm prepares images for a model."""
    return Scaling(
        255.0,
        tuple(config["mean"]),
        tuple(config["std"]),
        crop=config["crop_pct"],
        interpolation="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
    )


def licence_of(config: Mapping[str, Any]) -> str:
    """The licence of the weights, or where it is told."""
    if stated := config.get("license"):
        return stated
    repository = config.get("hf_hub_id")
    return f"see https://huggingface.co/{repository}" if repository else ""


def citation_of(config: Mapping[str, Any]) -> str:
    """The paper, as timm names it."""
    papers = config.get("paper_ids") or ()
    papers = (papers,) if isinstance(papers, str) else papers
    return ", ".join(filter(None, itertools.chain([config.get("paper_name")], papers)))
