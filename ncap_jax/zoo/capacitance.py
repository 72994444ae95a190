"""Whole-network beta_eff of Flax NNX modules: the adapter to `ncap_jax.capacitance.network`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.capacitance import beta_eff, checks, line_graph, network
from ncap_jax.capacitance.beta_eff import BetaEff
from ncap_jax.errors import KernelError
from ncap_jax.types import Strength


@dataclass(frozen=True)
class ModelFunction:
    """A module's call as a pure function; hashable, to be a static argument of `jax.jit`.

    Attributes:
        graphdef: of the module in inference mode.
    """

    graphdef: nnx.GraphDef

    def __call__(self, params: Any, constants: Any, inputs: jax.Array) -> jax.Array:
        """(params, constants, inputs) -> logits (batch, classes)."""
        module = nnx.merge(self.graphdef, nnx.State(params), nnx.State(constants), copy=True)
        return module(inputs)


class EdgeDegrees(NamedTuple):
    """Degrees of every weight of a network, alpha = 1.

    Attributes:
        delta_in: row sums of P; nested dictionaries as `nnx.state(model, nnx.Param)`, weights
            only (no biases, no normalisation parameters), each in the shape of its weight.
        delta_out: column sums of P, likewise.
    """

    delta_in: dict
    delta_out: dict


def split_model(model: nnx.Module) -> tuple[ModelFunction, Any, Any]:
    """Function, parameters and everything else of a module, in inference mode.

    The module keeps its own mode and arrays.
    """
    if not isinstance(model, nnx.Module):
        raise KernelError(
            f"the model is a {type(model).__name__}, not a flax.nnx.Module",
            "For a plain function use ncap_jax.capacitance.network",
        )
    copy = nnx.clone(model)
    copy.eval()
    graphdef, *arrays = nnx.split(copy, nnx.Param, ...)
    params, constants = arrays
    return ModelFunction(graphdef), nnx.to_pure_dict(params), nnx.to_pure_dict(constants)


def _accumulate(
    model: nnx.Module,
    inputs: Any,
    labels: Any,
    strength: Strength,
    batch_size: int,
    every_edge: bool,
) -> line_graph.State:
    checks.check_strengths([strength], network.STRENGTHS)
    function, params, constants = split_model(model)
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    network.check(function, params, constants, inputs, labels)
    size = min(batch_size, len(inputs))
    state = network.init(
        function, params, constants, inputs[:size], (strength,), every_edge=every_edge
    )
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], labels[start : start + size]
        missing = size - len(x)  # the last batch is padded, so that one program serves all
        mask = jnp.arange(size) < len(x)
        x = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
        y = jnp.pad(y, (0, missing))
        state = network.update(
            state, function, params, constants, x, y, mask, every_edge=every_edge
        )
    return state


def network_beta_eff(
    model: nnx.Module,
    inputs: Any,
    labels: Any,
    strength: Strength = "signed",
    batch_size: int = 64,
) -> BetaEff:
    """beta_eff of a whole network, its code unchanged, in inference mode.

    Weights are the parameters that enter a dot product or a convolution with the data: kernels
    of dense, convolutional and attention-projection layers. What is held and what the strengths
    mean for shared weights is said in `ncap_jax.capacitance.network`. For measurements in a
    training loop, under `jit` or `vmap`, use that module with `split_model`.

    Args:
        model: called with a batch it returns logits (batch, classes); four weight layers in a
            row at least.
        inputs: (n, ...) floating point, preprocessed.
        labels: (n,) integers.
        strength: `signed`, `absolute` or `squared`.
        batch_size: samples at a time; the result does not depend on it, memory does.

    Returns:
        `BetaEff`: `.value`, `.status`, `.condition`; converts to float.

    Raises:
        KernelError: inputs, labels or a model for which beta_eff is not defined; a module that
            cannot be treated is named.
        ConfigError: unknown strength.
    """
    state = _accumulate(model, inputs, labels, strength, batch_size, every_edge=False)
    return beta_eff.from_state(state)[strength]


def edge_degrees(
    model: nnx.Module,
    inputs: Any,
    labels: Any,
    strength: Strength = "signed",
    batch_size: int = 64,
) -> EdgeDegrees:
    """In- and out-degree of every weight in the line graph of a whole network.

    Arguments and errors as for `network_beta_eff`.
    """
    state = _accumulate(model, inputs, labels, strength, batch_size, every_edge=True)
    sums = line_graph.finalise(state)[strength]
    return EdgeDegrees(_nested(sums.delta_in), _nested(sums.delta_out))


def _nested(flat: dict[str, jax.Array]) -> dict:
    """`a/0/kernel` -> nested dictionaries with integer keys where the model has them."""
    tree: dict = {}
    for name, leaf in flat.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = leaf
    return tree
