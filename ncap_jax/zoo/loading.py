"""Building a model and filling it with weights."""

from __future__ import annotations

import os
import pathlib
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, hub
from ncap_jax.zoo.registry import find_model
from ncap_jax.zoo.weights import sources

PRETRAINED = "pretrained"


def load_model(
    model: str | ModelSpec,
    weights: str | os.PathLike[str] | None = PRETRAINED,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> nnx.Module:
    """Build a model and fill it with weights.

    Two models of one architecture have equal static definitions
    (`ncap_jax.zoo.functional.split`), whatever their weights: they share compiled programs.

    Args:
        model: a name in `MODELS`, an `hf://` name, or a ModelSpec of your own.
        weights: `pretrained`; the path of a file for this architecture, or its `hf://` name; or
            `random` (or None) for a random initialisation, which is never chosen silently. A
            ModelSpec whose own `weights` are `random` is drawn at random as its pretrained form.
        weights_dir: folder that holds published files under their published names, searched
            before anything is downloaded; default `NCAP_WEIGHTS_DIR`.
        seed: of the random initialisation.
        dtype: compute dtype (parameters are float32); None: that of the input.

    Returns:
        An `nnx.Module` in inference mode; `.features(x)` maps preprocessed float images
        (batch, height, width, 3) to (batch, `feature_width`).

    Raises:
        ModelError: unknown name.
        WeightsError: the weights are missing, damaged or of another architecture, or
            `weights_dir` does not exist.
    """
    spec = find_model(model)
    if weights_dir is not None:
        sources.folders(weights_dir)
    # One spelling of a dtype: float32 as a class and as a dtype are equal but hash differently.
    dtype = None if dtype is None else jnp.dtype(dtype)
    if weights == PRETRAINED and spec.weights == sources.RANDOM:
        weights = None
    if weights in (None, sources.RANDOM):
        module = spec.build(rngs=nnx.Rngs(seed), dtype=dtype)
    elif weights == PRETRAINED and spec.build_pretrained is not None:
        module = spec.build_pretrained(rngs=nnx.Rngs(seed), dtype=dtype)
    else:
        module = functional.build_to_fill(partial(spec.build, dtype=dtype), seed)
        sources.fill(module, spec, _given_file(weights), weights_dir)
    module.eval()
    return module


def _given_file(weights: str | os.PathLike[str]) -> pathlib.Path | None:
    """The file that the caller names; None: the model's own."""
    if weights == PRETRAINED:
        return None
    if str(weights).startswith(hub.SCHEME):
        return hub.fetch(str(weights))
    return pathlib.Path(weights)
