"""timm's networks: made, filled with a file's weights, and given back to timm with a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.zoo.torch_models import drawing, import_torch, kept_names, skeleton

SCHEME = "timm:"
# What lets a model whose table of positions has one size take images of another.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {})


@dataclass(frozen=True)
class TimmSource:
    """An architecture of timm's without its classifier.

    Attributes:
        architecture: timm's name, without a tag.
    """

    architecture: str

    @property
    def name(self) -> str:
        """For errors."""
        return f"{SCHEME}{self.architecture}"

    def build(self, **options: Any) -> Any:
        """The module, drawn at random by timm.

        Args:
            options: of `timm.create_model`.

        Raises:
            ModelError: it cannot be built.
        """
        import_torch(self.name)
        with drawing():
            return create(self.architecture, **options)


def create(architecture: str, *, num_classes: int = 0, **options: Any) -> Any:
    """The module, which takes images of any size where timm can do that.

    Args:
        architecture: timm's name, without a tag.
        num_classes: of its classifier; 0: it has none.
        options: of `timm.create_model`.

    Raises:
        ModelError: it cannot be built.
    """
    import timm

    fixed = timm.models.get_pretrained_cfg(architecture).fixed_input_size
    for sized in ANY_SIZE if fixed else ({},):
        try:
            return timm.create_model(architecture, num_classes=num_classes, **sized, **options)
        except TypeError as error:
            refused = error
    raise errors.ModelError(
        f"{SCHEME}{architecture} cannot be built: {refused}", "Choose another model"
    )


def with_classifier(
    architecture: str, arrays: Mapping[str, np.ndarray], kernel: np.ndarray, bias: np.ndarray
) -> dict[str, np.ndarray]:
    """The weights of timm's own model, its classifier included; loaded and run to be sure.

    Args:
        architecture: timm's name, without a tag.
        arrays: of the model without a classifier, under our names.
        kernel: (width, classes) of the classifier.
        bias: (classes,) likewise.

    Returns:
        timm's names -> arrays; `load_state_dict(..., strict=True)` takes them.

    Raises:
        ModelError: the model does not end in a linear classifier of its features.
    """
    torch = import_torch(f"{SCHEME}{architecture}")
    with drawing():
        plain, whole = (create(architecture, num_classes=n) for n in (0, len(bias)))
    body = {name.partition(".")[2]: torch.tensor(np.array(a)) for name, a in arrays.items()}
    plain.load_state_dict(body, strict=True)
    classifier = whole.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    named = {**whole.state_dict(), **body}
    neutral = {"running_mean": 0, "running_var": 1, "weight": 1, "bias": 0}  # of batch norm
    for name in sorted(named.keys() - body.keys()):
        layer, _, part = name.rpartition(".")
        if layer in heads and part in ("weight", "bias"):
            value = torch.tensor(kernel.T if part == "weight" else bias)
            if value.numel() != named[name].numel():
                raise _not_linear(architecture)
            named[name] = value.reshape(named[name].shape)
        elif part in neutral:
            named[name] = torch.full_like(named[name], neutral[part])
    whole.load_state_dict(named, strict=True)
    with torch.no_grad():
        x = torch.linspace(-2, 2, 3 * whole.pretrained_cfg["input_size"][1] ** 2)
        x = x.reshape(1, 3, whole.pretrained_cfg["input_size"][1], -1)
        expected = plain.eval()(x) @ torch.tensor(kernel) + torch.tensor(bias)
        found = whole.eval()(x)
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise _not_linear(architecture)
    # safetensors stores memory as it lies there.
    return {name: np.ascontiguousarray(value.numpy()) for name, value in named.items()}


def _not_linear(architecture: str) -> errors.ModelError:
    return errors.ModelError(
        f"timm's {architecture} does not end in a linear classifier of its features",
        "Export it as onnx or stablehlo",
    )


def configuration(name: str, class_names: Sequence[str], size: int) -> dict[str, Any]:
    """The content of a `config.json` from which timm makes a fine-tuned model.

    Args:
        name: of the candidate that it began as, with its tag.
        class_names: in the order of the logits.
        size: side of its images in pixels.
    """
    import timm

    config = timm.models.get_pretrained_cfg(name).to_dict(remove_source=True)
    architecture, native = config["architecture"], config["input_size"][1]
    other_size = config.get("fixed_input_size", False) and size != native
    # The table of positions stays as it is, and is fitted to each image.
    sized = {"img_size": native, "dynamic_img_size": True} if other_size else {}
    return {
        "architecture": architecture,
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "model_args": sized,
        "pretrained_cfg": {
            **config,
            "num_classes": len(class_names),
            "input_size": [3, size, size],
            # As images are decoded: the whole image, whatever its shape.
            "crop_mode": "squash",
        },
    }


def is_ours(arrays: Mapping[str, Any]) -> bool:
    """Whether a file's arrays have our names, not timm's."""
    return all(name.startswith(("params.", "state.")) for name in arrays)


def published(
    source: TimmSource, arrays: Mapping[str, np.ndarray], where: str
) -> Mapping[str, np.ndarray]:
    """A file's arrays, in timm's form or that of the weights' author, under our names.

    timm itself takes the classifier off and fits tables of positions.

    Args:
        source: of the network.
        arrays: of the file; those that have our names already come back as they are.
        where: the file is, for the error.

    Raises:
        WeightsError: they are of another architecture.
    """
    if is_ours(arrays):
        return arrays
    torch = import_torch(source.name)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    classes = _classes(source.architecture, arrays)
    # With the file's own number of classes timm loads strictly.
    overlay = {"state_dict": tensors, "source": "", "num_classes": classes, "label_offset": 0}
    try:
        module = source.build(num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        first = " ".join(str(error).split())[:300]
        raise errors.WeightsError(
            f"{where} does not fit {source.name}: {first}",
            "Give the file that belongs to this architecture",
        ) from error
    found = module.state_dict()
    groups = zip(("params", "state"), kept_names(skeleton(source)))
    return {
        f"{group}.{name}": np.array(found[name].numpy())
        for group, names in groups
        for name in names
    }


def _classes(architecture: str, arrays: Mapping[str, np.ndarray]) -> int:
    """The number of classes of a file, by the classifier in it; else timm's."""
    import timm

    config = timm.models.get_pretrained_cfg(architecture).to_dict()
    named = config.get("classifier") or ""
    first = named if isinstance(named, str) else named[0]
    weight = arrays.get(f"{first}.weight")
    return config["num_classes"] if weight is None else len(weight)
