"""Checkpoints of the Hugging Face Hub for architectures of the zoo.

    hf://owner/repository                              its model.safetensors
    hf://owner/repository@revision/folder/file         a revision, another file

Such a name stands wherever a model's name stands (the repository must be one of timm's, whose
config.json names architecture, input size and normalisation), or as `weights` of a model of the
zoo. Files are kept in the Hub's own cache (`HF_HOME`); access tokens are read by its library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import caching, errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, hub_config
from ncap_jax.zoo.preprocess import MODES, Scaling
from ncap_jax.zoo.weights import published, readers

SCHEME = "hf://"
WEIGHTS = "model.safetensors"
_SHA256 = re.compile("[0-9a-f]{64}")
# Names become parts of addresses and paths: no part of one begins with a dot, `..` does.
_PART = r"\w[\w.-]*"
_NAME = re.compile(rf"hf://({_PART}/{_PART})(?:@({_PART}))?(?:/({_PART}(?:/{_PART})*))?", re.ASCII)


def parse(name: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and file of an `hf://` name; None for a part that it leaves out.

    Raises:
        ModelError: the name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise errors.ModelError(
            f"{name!r} does not name a repository of the Hugging Face Hub",
            "Write hf://owner/repository, hf://owner/repository@revision or "
            "hf://owner/repository/file.safetensors",
        )
    return match[1], match[2], match[3]


def fetch(name: str, file: str | None = None) -> pathlib.Path:
    """Download a file once and return its path.

    Args:
        name: `hf://...`.
        file: of the repository; None: the one in the name, or `model.safetensors`.

    Raises:
        WeightsError: huggingface_hub is not installed, or the file cannot be fetched or is damaged.
        ModelError: the name has another form.
    """
    repository, revision, named = parse(name)
    file = file or named or WEIGHTS
    caching.ensure_home()  # the Hub's library looks for it when it is imported
    try:
        import huggingface_hub
    except ImportError as error:
        raise errors.WeightsError(
            f"{name} needs the package huggingface_hub", "Run pip install 'ncap_jax[hf]'"
        ) from error
    try:
        path = huggingface_hub.hf_hub_download(
            repository, file, revision=revision, local_files_only=caching.offline()
        )
    # Its errors are OSErrors (network, rights, missing repository) or ValueErrors (bad names).
    except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise errors.WeightsError(
            f"cannot fetch {file} of {repository} from the Hugging Face Hub: {first_line}",
            "Check the name, the connection and NCAP_OFFLINE; private and gated repositories "
            "need HF_TOKEN",
        ) from error
    return checked(pathlib.Path(path))


def cached(name: str) -> pathlib.Path | None:
    """The file of an `hf://` name if it was downloaded before; None: it was not.

    Raises:
        ModelError: the name has another form.
    """
    repository, revision, named = parse(name)
    caching.ensure_home()
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, named or WEIGHTS, revision=revision)
    return pathlib.Path(found) if isinstance(found, str) else None


def checked(path: pathlib.Path) -> pathlib.Path:
    """A file of the Hub's cache; large ones are kept under the SHA-256 that the Hub states.

    Raises:
        WeightsError: the content has another one.
    """
    stated = path.resolve().name
    if _SHA256.fullmatch(stated) and (found := digest(path)) != stated:
        raise errors.WeightsError(
            f"{path} is not the published file: its sha256 is {found}, not {stated}",
            "Remove it; it is downloaded again",
        )
    return path


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Pretrained:
    """Builds an architecture of the zoo with the weights in a file.

    Attributes:
        architecture: the zoo's model.
        file: its weights.
        source: the `hf://` name that they were found by.
    """

    architecture: ModelSpec
    file: pathlib.Path
    source: str = ""

    def __call__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        """The module, filled; `rngs` is not used: nothing is left to draw."""
        module = functional.build_to_fill(partial(self.architecture.build, dtype=dtype), seed=0)
        readers.fill_from_file(module, self.architecture, self.file)
        return module


def find(name: str, models: Mapping[str, ModelSpec]) -> ModelSpec:
    """The candidate behind an `hf://` name: an architecture of the zoo with the Hub's weights.

    The weights are fetched at once, so that a run never stops halfway for lack of them.

    Args:
        name: of a repository in timm's form.
        models: the architectures to choose from, by name.

    Raises:
        ModelError: the configuration holds what it may not, the architecture is not among
            `models`, or no mode of `ncap_jax.zoo.preprocess` normalises as the repository says.
        WeightsError: the files cannot be fetched.
    """
    repository, _, _ = parse(name)
    config = hub_config.read(fetch(name, hub_config.CONFIG), name)
    base = architecture_of(config, repository, models)
    weights = fetch(name)
    pixels = config.get("pretrained_cfg", {})
    return dataclasses.replace(
        base,
        name=repository.split("/")[1].lower(),
        input_size=pixels.get("input_size", [3, base.input_size])[1],
        preprocessing=preprocessing_of(pixels, base, repository),
        weights=None,
        sha256=digest(weights),
        licence=f"see https://huggingface.co/{repository}",
        description=f"{base.name} with the weights {name}",
        build_pretrained=Pretrained(base, weights, name),
    )


def architecture_of(
    config: Mapping[str, Any], repository: str, models: Mapping[str, ModelSpec]
) -> ModelSpec:
    """The zoo's model of the architecture that timm's configuration names.

    Args:
        config: the content of `config.json`.
        repository: named in the error.
        models: the zoo's, by name.

    Raises:
        ModelError: the zoo does not have it.
    """
    known = {spec.name: spec for spec in models.values() if spec.layout.convention == "torch"}
    for spec in models.values():
        # Where a zoo model's own weights come from timm, the address names the architecture.
        if architecture := published.timm_architecture(spec.weights or ""):
            known[architecture] = spec
    stated = config.get("architecture")
    if stated in known:
        return known[stated]
    what = "states no architecture" if stated is None else f"is a {stated!r}, which the zoo lacks"
    raise errors.ModelError(
        f"{repository} {what}",
        f"Choose a checkpoint of {', '.join(sorted(known))}, or give a ModelSpec of your own",
    )


def preprocessing_of(pixels: Mapping[str, Any], base: ModelSpec, repository: str) -> str:
    """The mode that maps pixels as timm's (x / 255 - mean) / std does.

    Args:
        pixels: `pretrained_cfg` of timm's configuration.
        base: its mode is taken where `pixels` states no normalisation.
        repository: named in the error.

    Raises:
        ModelError: none of them does.
    """
    if "mean" not in pixels or "std" not in pixels:
        return base.preprocessing
    wanted = _lines(Scaling(255.0, tuple(pixels["mean"]), tuple(pixels["std"])))
    for mode, scaling in MODES.items():
        close = map(partial(math.isclose, rel_tol=1e-6), wanted, _lines(scaling))
        if not scaling.bgr and all(close):
            return mode
    raise errors.ModelError(
        f"{repository} normalises pixels with mean {pixels['mean']} and std {pixels['std']}, "
        "which no mode of ncap_jax.zoo.preprocess.MODES does",
        "Give a ModelSpec of your own",
    )


def _lines(scaling: Scaling) -> list[float]:
    """Slopes and offsets of the three channels: (x / divisor - mean) / std as a x - b."""
    channels = list(zip(scaling.mean, scaling.std))
    return [1 / (scaling.divisor * std) for _, std in channels] + [m / std for m, std in channels]
