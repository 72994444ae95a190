"""A model's weights under the names of its PyTorch implementation, for timm and torchvision.

The folder holds `model.safetensors`, which the implementation loads with `strict=True`, and
`config.json` in timm's form. How images are scaled stands there; timm follows it.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from ncap_jax import errors, files
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, functional
from ncap_jax.zoo.preprocess import scaling_of
from ncap_jax.zoo.weights import keymap, published, store

if TYPE_CHECKING:
    from ncap_jax.winner.facts import Preprocessing
    from ncap_jax.winner.model import Winner

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write(winner: Winner, folder: pathlib.Path) -> None:
    """Write the weights and their description.

    Args:
        winner: the model.
        folder: made if it is not there.

    Raises:
        ModelError: the architecture has no PyTorch implementation of the same layers.
        OutputError: the files cannot be written.
    """
    if winner.facts.architecture.kind == "timm":
        arrays, described = _of_timm(winner)
    else:
        spec = _spec_of(winner)
        arrays, described = weights(winner, spec), configuration(winner, spec)
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    config = files.to_json(described, indent=1)
    files.write_atomically(folder / WEIGHTS, content)
    files.write_atomically(folder / CONFIG, f"{config}\n")


def _of_timm(winner: Winner) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and configuration of a model of timm's own."""
    from ncap_jax.zoo import timm_networks

    network, params, state = winner.network, winner.params, winner.state
    backbone = functional.merge(network.backbone, params["backbone"], state["backbone"])
    output, name = params["head"]["output"], winner.facts.architecture.name
    named = timm_networks.with_classifier(
        name.partition(".")[0],
        store.state_arrays(backbone),
        np.asarray(output["kernel"])[0],
        np.asarray(output["bias"])[0],
    )
    return named, timm_networks.configuration(
        name, winner.class_names, winner.facts.preprocessing.input_size
    )


def weights(winner: Winner, spec: ModelSpec) -> dict[str, np.ndarray]:
    """PyTorch's name -> array in PyTorch's layout, the classifier included.

    Args:
        winner: the model.
        spec: of the zoo, with PyTorch's names.
    """
    network, params, state = winner.network, winner.params, winner.state
    backbone: Any = functional.merge(network.backbone, params["backbone"], state["backbone"])
    arrays = store.state_arrays(backbone)
    size = winner.facts.preprocessing.input_size
    arrays.update({n: np.asarray(a) for n, a in backbone.sized_weights(size).items()})
    named = keymap.publish(backbone, arrays, "torch")
    assert len(named) == len(arrays)  # the tests hold the zoo to it
    output = params["head"]["output"]
    classifier = spec.layout.classifier[-1]
    named[f"{classifier}.weight"] = np.asarray(output["kernel"])[0].T
    named[f"{classifier}.bias"] = np.asarray(output["bias"])[0]
    # safetensors stores memory as it lies there.
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def configuration(winner: Winner, spec: ModelSpec) -> dict[str, Any]:
    """The content of `config.json`, in the form of timm's.

    Args:
        winner: the model.
        spec: of the zoo, with PyTorch's names.

    Raises:
        ModelError: the pixels are scaled in a way that timm lacks.
    """
    pixels = winner.facts.preprocessing
    timm = published.timm_architecture(spec.weights or "")
    sized = {"img_size": pixels.input_size} if spec.family == "vit" else {}
    return {
        "architecture": timm or spec.name,
        "num_classes": winner.num_classes,
        "label_names": list(winner.class_names),
        "model_args": sized,
        "pretrained_cfg": {
            **_scaling(winner.name, pixels),
            "num_classes": winner.num_classes,
            "input_size": [3, pixels.input_size, pixels.input_size],
            "fixed_input_size": bool(sized),
            # As images are decoded: the whole image, whatever its shape.
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "classifier": spec.layout.classifier[-1],
        },
    }


def _scaling(name: str, pixels: Preprocessing) -> dict[str, list[float]]:
    """Mean and deviation for pixels in 0..1."""
    scaling = scaling_of(pixels.mode)
    if scaling.bgr:
        raise errors.ModelError(
            f"{name} takes pixels in the order blue, green, red, which timm does not give",
            "Export it as onnx or stablehlo",
        )
    share = scaling.divisor / 255
    return {
        "mean": [mean * share for mean in scaling.mean],
        "std": [std * share for std in scaling.std],
    }


def _spec_of(winner: Winner) -> ModelSpec:
    """The architecture in the zoo, if it has PyTorch's names."""
    architecture = winner.facts.architecture
    known = {s.name: s for s in MODELS.values() if s.layout.convention == "torch"}
    if architecture.kind != "custom" and architecture.name in known:
        return known[architecture.name]
    raise errors.ModelError(
        f"{architecture.name} has no implementation with the same layers and names in timm or "
        "torchvision",
        f"Export it as onnx or stablehlo; the format timm is for {', '.join(sorted(known))}",
    )
