"""What the kernels refuse, with cause and remedy.

Shapes and dtypes are checked always. Values are checked where they are concrete: under `jit` or
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


def check_strengths(strengths: Iterable[str], known: Sequence[str] = STRENGTHS) -> None:
    """Every name is one of `known`.

    Raises:
        ConfigError: a name is unknown.
    """
    for strength in strengths:
        if strength not in known:
            raise ConfigError(*unknown_name("strength", str(strength), known))


def is_concrete(x: Any) -> bool:
    """Whether the values of x can be looked at."""
    return not isinstance(x, jax.core.Tracer)


def check_finite(x: Any, name: str, remedy: str) -> None:
    """All values of a concrete array are finite.

    Raises:
        KernelError: there is a NaN or an infinity.
    """
    if is_concrete(x) and not bool(jnp.all(jnp.isfinite(x))):
        bad = int(np.sum(~np.isfinite(np.asarray(x, np.float64))))
        raise KernelError(f"{name} has {bad} values that are NaN or infinite", remedy)


def check_inputs(inputs: Any, name: str = "inputs") -> None:
    """A non-empty batch of finite floating-point samples.

    Raises:
        KernelError: anything else.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise KernelError(
            f"{name} has dtype {inputs.dtype}, not floating point",
            "Preprocess first, for instance images.astype('float32') / 255",
        )
    if inputs.ndim < 2:
        raise KernelError(
            f"{name} has shape {inputs.shape}", "Give a batch: the first axis counts samples"
        )
    if inputs.shape[0] == 0:
        raise KernelError(f"{name} is an empty batch", "Give one sample at least")
    check_finite(inputs, name, "Remove or repair these samples")


def check_labels(labels: Any, batch: int, num_classes: int) -> None:
    """(batch,) integers in 0..num_classes-1.

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
            f"there are {labels.shape[0]} labels for {batch} samples", "Give one label a sample"
        )
    if is_concrete(labels) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise KernelError(
                f"labels lie in {low}..{high}, but the network has {num_classes} outputs",
                f"Renumber the classes 0..{num_classes - 1}",
            )


def check_mlp(kernels: Sequence[Any], biases: Sequence[Any], inputs: Any, labels: Any) -> None:
    """A chain of dense layers with three hidden layers at least, and data that fit it.

    Raises:
        KernelError: anything else.
    """
    if len(biases) != len(kernels):
        raise KernelError(
            f"{len(kernels)} kernels but {len(biases)} biases",
            "Give one bias (n_out,) a layer; zeros where the layer has none",
        )
    if len(kernels) - 1 < MIN_HIDDEN_LAYERS:
        raise KernelError(
            f"the network has {max(len(kernels) - 1, 0)} hidden layers; beta_eff needs "
            f"{MIN_HIDDEN_LAYERS} (softmax with cross-entropy makes the in-degrees of the last "
            "hidden layer's kernel vanish, so that the signed value is identically 0 with fewer)",
            "Use a deeper network or probe",
        )
    check_inputs(inputs)
    if inputs.ndim != 2:
        raise KernelError(f"inputs has shape {inputs.shape}", "Flatten it to (batch, n_in)")
    width = inputs.shape[1]
    for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True), start=1):
        if kernel.ndim != 2 or kernel.shape[0] != width or 0 in kernel.shape:
            raise KernelError(
                f"kernel {number} has shape {kernel.shape}; its input has width {width}",
                "Kernels are (n_in, n_out) and chain; transpose those of PyTorch",
            )
        width = kernel.shape[1]
        if bias.shape != (width,):
            raise KernelError(f"bias {number} has shape {bias.shape}, not ({width},)", "Reshape it")
        check_finite(kernel, f"kernel {number}", "The model diverged or was loaded damaged")
        check_finite(bias, f"bias {number}", "The model diverged or was loaded damaged")
    check_labels(labels, inputs.shape[0], width)


def check_probe(
    gammas: Sequence[Any], betas: Sequence[Any], kernels: Sequence[Any], strengths: Iterable[str]
) -> None:
    """Batch-norm parameters (n_out,) for every hidden layer.

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
                "Give one vector (n_out,) for each hidden layer",
            )
