"""Whole-network beta_eff of Flax NNX modules: where `ncap_jax.capacitance.network` meets models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.capacitance import beta_eff, checks, line_graph, network
from ncap_jax.capacitance.beta_eff import BetaEff
from ncap_jax.data import batching
from ncap_jax.errors import KernelError
from ncap_jax.types import Strength
from ncap_jax.zoo import functional


class Model(NamedTuple):
    """A network as the kernels take it.

    Attributes:
        function: (params, constants, inputs) -> logits (batch, classes); hashable.
        params: pytree; leaves that enter a dot product or a convolution are weights.
        constants: pytree of everything else that the function needs.
    """

    function: network.Apply
    params: Any
    constants: Any


class Batch(NamedTuple):
    """Samples of one accumulation step.

    Attributes:
        inputs: (batch, ...) floating point.
        labels: (batch,) integers.
        mask: (batch,) bool, False where a sample only pads the batch.
    """

    inputs: Any
    labels: Any
    mask: Any


class EdgeDegrees(NamedTuple):
    """Degrees of every weight of a network, alpha = 1.

    Attributes:
        delta_in: row sums of P; nested dictionaries as `nnx.state(model, nnx.Param)`, weights
            only (no biases, no normalisation parameters), each in the shape of its weight.
        delta_out: column sums of P, likewise.
    """

    delta_in: dict[Any, Any]
    delta_out: dict[Any, Any]


def split_model(model: nnx.Module) -> Model:
    """Function, parameters and everything else of a module, in inference mode.

    The module keeps its own mode and arrays.

    Raises:
        KernelError: not an `nnx.Module`.
    """
    if not isinstance(model, nnx.Module):
        raise KernelError(
            f"the model is a {type(model).__name__}, not a flax.nnx.Module",
            "For a plain function use ncap_jax.capacitance.network",
        )
    return Model(*functional.as_function(model))


def batches_of(inputs: Any, labels: Any, batch_size: int) -> Iterator[Batch]:
    """All samples in batches of one shape, so that one program serves them; the last is padded."""
    for indices, mask in zip(*batching.padded_batches(len(labels), batch_size)):
        yield Batch(jnp.asarray(inputs[indices]), jnp.asarray(labels[indices]), jnp.asarray(mask))


def accumulate(
    empty: line_graph.State,
    model: Model,
    batches: Iterable[Batch],
    *,
    every_edge: bool = False,
) -> line_graph.State:
    """The sums over all batches, from which beta_eff and the degrees are taken.

    Args:
        empty: from `ncap_jax.capacitance.network.init`; not consumed.
        model: the network.
        batches: of the shape that `empty` was made for.
        every_edge: see `ncap_jax.capacitance.network.measure`.
    """
    state = jax.tree.map(jnp.zeros_like, empty)  # a copy, for `update` consumes it
    for batch in batches:
        state = network.update(state, *model, *batch, every_edge=every_edge)
    return state


def _measure(
    model: nnx.Module,
    inputs: Any,
    labels: Any,
    strength: Strength,
    batch_size: int,
    *,
    every_edge: bool,
) -> line_graph.State:
    checks.check_strengths([strength], network.STRENGTHS)
    split = split_model(model)
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    network.check(*split, inputs, labels)
    size = min(batch_size, len(inputs))
    empty = network.init(*split, inputs[:size], (strength,), every_edge=every_edge)
    return accumulate(empty, split, batches_of(inputs, labels, size), every_edge=every_edge)


def network_beta_eff(
    model: nnx.Module,
    inputs: Any,
    labels: Any,
    strength: Strength = "signed",
    batch_size: int = 64,
) -> BetaEff:
    """beta_eff of a whole network, its code unchanged, in inference mode.

    Weights are the parameters that enter a dot product or a convolution with the data: kernels
    of dense, convolutional and attention-projection layers. `ncap_jax.capacitance.network` says
    what is held and what the strengths mean for shared weights. For measurements in a training
    loop, under `jit` or `vmap`, use that module with `split_model`.

    Args:
        model: returns logits (batch, classes) when it is called with a batch; at least four
            weight layers in a row.
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
    state = _measure(model, inputs, labels, strength, batch_size, every_edge=False)
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
    state = _measure(model, inputs, labels, strength, batch_size, every_edge=True)
    sums = line_graph.finalise(state)[strength]
    return EdgeDegrees(_nested(sums.delta_in), _nested(sums.delta_out))


def _nested(flat: dict[str, jax.Array]) -> dict[Any, Any]:
    """`a/0/kernel` -> nested dictionaries with integer keys where the model has them."""
    tree: dict[Any, Any] = {}
    for name, leaf in flat.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = leaf
    return tree
