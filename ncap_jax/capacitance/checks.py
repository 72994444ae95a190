"""What the kernels refuse, with cause and remedy.

Shapes and dtypes are always checked. Values are checked where they are concrete; under `jit` or
`vmap` they are not, and a NaN shows up as the status `non_finite` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.errors import ConfigError, KernelError, unknown_name
from ncap_jax.types import STRENGTHS

MIN_HIDDEN_LAYERS = 3
DAMAGED_WEIGHTS = "Lower the learning rate if the model diverged; otherwise reload its weights"


def check_strengths(strengths: Iterable[str], known: Sequence[str] = STRENGTHS) -> None:
    """Refuse names that are not among `known`.

    Raises:
        ConfigError: a name is unknown.
    """
    for strength in strengths:
        if strength not in known:
            raise ConfigError(*unknown_name("strength", str(strength), known))


def is_concrete(x: Any) -> bool:
    """Whether the values of an array are known, not traced."""
    return not isinstance(x, jax.core.Tracer)


def check_finite(x: Any, name: str, remedy: str) -> None:
    """Refuse a concrete array with NaN or infinite values.

    Raises:
        KernelError: there is a NaN or an infinity.
    """
    if is_concrete(x) and not bool(jnp.all(jnp.isfinite(x))):
        bad = int(np.sum(~np.isfinite(np.asarray(x, np.float64))))
        raise KernelError(f"NaN or infinite values in {name}: {bad} of {x.size}", remedy)


def check_inputs(inputs: Any, name: str = "inputs") -> None:
    """Refuse all but a non-empty batch of finite floating-point samples.

    Raises:
        KernelError: anything else.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise KernelError(
            f"the dtype of {name} is {inputs.dtype}, not floating point",
            "Preprocess first, for example with images.astype('float32') / 255",
        )
    if inputs.ndim < 2:
        raise KernelError(
            f"the shape of {name} is {inputs.shape}, which is not a batch",
            "Let the first axis count samples",
        )
    if inputs.shape[0] == 0:
        raise KernelError(f"the batch of {name} is empty", "Give at least one sample")
    check_finite(inputs, name, "Remove or repair these samples")


def check_labels(labels: Any, batch: int, num_classes: int) -> None:
    """Refuse all but (batch,) integers in 0..num_classes-1.

    Raises:
        KernelError: anything else.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
        raise KernelError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}",
            "Give one class number per sample: (batch,) integers, not one-hot vectors",
        )
    if labels.shape[0] != batch:
        raise KernelError(
            f"there are {labels.shape[0]} labels for {batch} samples", "Give one label per sample"
        )
    if is_concrete(labels) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise KernelError(
                f"labels range from {low} to {high}, but the network has {num_classes} outputs",
                f"Renumber the classes from 0 to {num_classes - 1}",
            )


def check_mlp(kernels: Sequence[Any], biases: Sequence[Any], inputs: Any, labels: Any) -> None:
    """Refuse all but a chain of dense layers, at least three of them hidden, and data that fit.

    Raises:
        KernelError: anything else.
    """
    if len(biases) != len(kernels):
        raise KernelError(
            f"{len(kernels)} kernels but {len(biases)} biases",
            "Give one bias (n_out,) per layer, zeros where a layer has none",
        )
    if len(kernels) - 1 < MIN_HIDDEN_LAYERS:
        raise KernelError(
            f"the network has {max(len(kernels) - 1, 0)} hidden layers, but beta_eff needs at "
            f"least {MIN_HIDDEN_LAYERS}: with fewer, softmax and cross-entropy make the signed "
            "value 0",
            "Use a deeper network or probe",
        )
    check_inputs(inputs)
    if inputs.ndim != 2:
        raise KernelError(
            f"the shape of inputs is {inputs.shape}, not (batch, n_in)",
            "Flatten each sample to a vector",
        )
    width = inputs.shape[1]
    for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True), start=1):
        if kernel.ndim != 2 or kernel.shape[0] != width or 0 in kernel.shape:
            raise KernelError(
                f"kernel {number} has shape {kernel.shape}, but its input has width {width}",
                "Give kernels of shape (n_in, n_out); transpose those of PyTorch",
            )
        width = kernel.shape[1]
        if bias.shape != (width,):
            raise KernelError(
                f"bias {number} has shape {bias.shape}, not ({width},)",
                "Give one bias per output of the layer's kernel",
            )
        check_finite(kernel, f"kernel {number}", DAMAGED_WEIGHTS)
        check_finite(bias, f"bias {number}", DAMAGED_WEIGHTS)
    check_labels(labels, inputs.shape[0], width)


def check_probe(
    gammas: Sequence[Any], betas: Sequence[Any], kernels: Sequence[Any], strengths: Iterable[str]
) -> None:
    """Refuse unknown strengths, and batch-norm parameters that do not fit the hidden layers.

    Raises:
        KernelError: a parameter is missing or has another shape.
        ConfigError: a strength is unknown.
    """
    check_strengths(strengths)
    shapes = [kernel.shape[1:] for kernel in kernels[:-1]]
    for name, values in (("gammas", gammas), ("betas", betas)):
        if [value.shape for value in values] != shapes:
            raise KernelError(
                f"{name} have shapes {[value.shape for value in values]}, not {shapes}",
                "Give one vector (n_out,) per hidden layer",
            )
