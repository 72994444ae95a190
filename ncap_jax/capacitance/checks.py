"""What the kernels refuse, with cause and remedy.

Shapes and dtypes are always checked. Values are checked where they are concrete; under `jit` or
`vmap` they are not, and a NaN shows up as the status `non_finite` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.errors import ConfigError, KernelError, unknown_name
from ncap_jax.ops.effort import Jitted
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


def check_finite(arrays: Mapping[str, Any], remedy: str) -> None:
    """Refuse concrete arrays with NaN or infinite values, by name.

    NumPy looks at what lies on the host, which takes a sixth of the time of XLA's reduction to one
    number. Elsewhere one program looks at all arrays: each answer is waited for.

    Raises:
        KernelError: there is a NaN or an infinity.
    """
    concrete = {name: x for name, x in arrays.items() if is_concrete(x)}
    for name, fine in zip(concrete, _are_finite(list(concrete.values()))):
        if not fine:
            x = concrete[name]
            bad = int(np.sum(~np.isfinite(np.asarray(x, np.float64))))
            raise KernelError(f"NaN or infinite values in {name}: {bad} of {x.size}", remedy)


def _are_finite(arrays: Sequence[Any]) -> Sequence[bool]:
    """Whether all values of each array are finite."""
    if all(map(_is_on_host, arrays)):
        return [bool(np.isfinite(np.asarray(x)).all()) for x in arrays]
    with jax.ensure_compile_time_eval():  # weights may be constants of a function that is traced
        return np.asarray(_are_finite_there.at("least")(arrays)).tolist()


def _is_on_host(x: Any) -> bool:
    devices = x.devices() if isinstance(x, jax.Array) else ()
    return len(devices) < 2 and all(device.platform == "cpu" for device in devices)


@Jitted
def _are_finite_there(arrays: Sequence[Any]) -> jax.Array:
    """`_are_finite` where the arrays are; (arrays,) bool."""
    return jnp.array([jnp.all(jnp.isfinite(x)) for x in arrays])


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
    check_finite({name: inputs}, "Remove or repair these samples")


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
        known = np.asarray(labels)
        low, high = int(known.min()), int(known.max())
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
    named = {f"kernel {number}": kernel for number, kernel in enumerate(kernels, start=1)}
    named |= {f"bias {number}": bias for number, bias in enumerate(biases, start=1)}
    check_finite(named, DAMAGED_WEIGHTS)
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
