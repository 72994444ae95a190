"""Checkpoints of the Hugging Face Hub for architectures of the zoo.

    hf://owner/repository                              its model.safetensors
    hf://owner/repository@revision/folder/file         a revision, another file

Such a name stands wherever a model's name stands (the repository must be one of timm's, whose
config.json names architecture, input size and normalisation), or as `weights` of a model of the
zoo. Files are kept in the Hub's own cache (`HF_HOME`); access tokens are read by its library.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ncap_jax import caching, errors
from ncap_jax.types import ModelSpec

SCHEME = "hf://"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?")
# Where a zoo model's own weights come from timm, the address names the architecture.
_TIMM_URL = re.compile(r"huggingface\.co/timm/([^./@]+)")


def parse(name: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and file of an `hf://` name; None where they are not said.

    Raises:
        ModelError: not such a name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise errors.ModelError(
            f"{name!r} is no name of the Hugging Face Hub",
            "Write hf://owner/repository, hf://owner/repository@revision or "
            "hf://owner/repository/file.safetensors",
        )
    return match[1], match[2], match[3]


def fetch(name: str, file: str | None = None) -> pathlib.Path:
    """Download a file once, and say where it lies.

    Args:
        name: `hf://...`.
        file: of the repository; None: the one in the name, else `model.safetensors`.

    Raises:
        WeightsError: huggingface_hub is not installed, or the file cannot be had.
        ModelError: not such a name.
    """
    repository, revision, named = parse(name)
    file = file or named or WEIGHTS
    try:
        import huggingface_hub
    except ImportError as error:
        raise errors.WeightsError(
            f"{name} needs the package huggingface_hub", "pip install 'ncap_jax[hf]'"
        ) from error
    try:
        path = huggingface_hub.hf_hub_download(
            repository, file, revision=revision, local_files_only=caching.offline()
        )
    # Its errors are OSErrors (network, rights, missing repository) or ValueErrors (bad names).
    except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise errors.WeightsError(
            f"cannot get {file} of {repository} from the Hugging Face Hub: {first_line}",
            "Check the name, the connection and NCAP_OFFLINE; private and gated repositories "
            "need HF_TOKEN",
        ) from error
    return pathlib.Path(path)


@functools.cache
def find(name: str) -> ModelSpec:
    """The candidate behind an `hf://` name: the zoo's architecture with the Hub's weights.

    The weights are fetched at once, so that a run never stops in its middle for them.

    Args:
        name: of a repository in timm's form.

    Raises:
        ModelError: an architecture that is not in the zoo, or a normalisation it does not know.
        WeightsError: the files cannot be had.
    """
    from flax import nnx

    from ncap_jax.zoo import functional
    from ncap_jax.zoo.weights import readers

    repository, _, _ = parse(name)
    config = _read_config(name)
    base = _architecture(config, repository)
    weights = fetch(name)

    def given(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        def build():
            return base.build(rngs=nnx.Rngs(0), dtype=dtype)

        module = functional.build_to_fill(build, seed=0)
        readers.fill_from_file(module, base, weights)
        return module

    pixels = config.get("pretrained_cfg") or {}
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return dataclasses.replace(
        base,
        name=repository.split("/")[1].lower(),
        input_size=int((pixels.get("input_size") or [3, base.input_size])[1]),
        preprocessing=_preprocessing(pixels, base, repository),
        weights=None,
        sha256=digest,
        licence=f"see https://huggingface.co/{repository}",
        description=f"{base.name} with the weights {name}",
        extra={**base.extra, "pretrained": given},
    )


def _read_config(name: str) -> dict[str, Any]:
    path = fetch(name, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise errors.WeightsError(
            f"{CONFIG} of {name} is no JSON: {error}", "Get it again"
        ) from error
    return config if isinstance(config, dict) else {}


def _architecture(config: Mapping[str, Any], repository: str) -> ModelSpec:
    """The zoo's model of the architecture that timm's config names."""
    from ncap_jax.zoo import MODELS

    known = {spec.name: spec for spec in MODELS.values() if spec.extra.get("convention") == "torch"}
    for spec in MODELS.values():
        if match := _TIMM_URL.search(spec.weights or ""):
            known[match[1]] = spec
    architecture = config.get("architecture")
    if architecture in known:
        return known[architecture]
    raise errors.ModelError(
        f"the zoo has no architecture {architecture or '(not stated in timm form)'!r}, which "
        f"{repository} is",
        f"Choose a checkpoint of {', '.join(sorted(known))}, or give a ModelSpec of your own",
    )


def _preprocessing(pixels: Mapping[str, Any], base: ModelSpec, repository: str) -> str:
    """The mode that maps pixels as timm's (x / 255 - mean) / std does."""
    from ncap_jax.zoo.preprocess import MODES

    if "mean" not in pixels or "std" not in pixels:
        return base.preprocessing

    def line(mean, std, divisor):
        """Slopes and offsets of the three channels."""
        channels = list(zip(mean, std))
        return [1 / (divisor * s) for _, s in channels] + [m / s for m, s in channels]

    wanted = line(pixels["mean"], pixels["std"], 255.0)
    for mode, scaling in MODES.items():
        # (x / divisor - mean) / std: the mean is in units of x / divisor.
        offered = line(scaling.mean, scaling.std, scaling.divisor)
        if not scaling.bgr and all(map(partial(math.isclose, rel_tol=1e-6), wanted, offered)):
            return mode
    raise errors.ModelError(
        f"{repository} normalises pixels with mean {pixels['mean']} and std {pixels['std']}, "
        "which is no mode of ncap_jax.zoo.preprocess.MODES",
        "Give a ModelSpec of your own",
    )
