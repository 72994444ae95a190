"""beta_eff of a whole network: edge degrees by one-step streams.

Equations (1)-(3) hold for any weight layers that are bilinear in (weight, input), whatever joins
them (the glue). With u the input of a weight layer, g the loss gradient at its output, and "next"
every weight layer to which glue alone leads:

    t   tangent stream: restarts at each weight layer as Lin(1, u), carried forward by the glue
    h   cotangent stream: restarts as Lin'(1, g), carried backward by the same Jacobians

    delta_out of a layer = -alpha mean_b weight gradient(t at its input, g)                (3')
    delta_in  of a layer = -alpha mean_b weight gradient(u, h at its output)               (3')
    1' P 1 = -alpha mean_b sum over layers of <h, Lin(1, u)>

A shared weight (of a convolution, or of a layer used twice) is one edge. Node states are held: u,
the slopes, g, the statistics of layer and group norm, and attention maps; g itself is the true
gradient, through all of these. Strengths other than signed replace every factor of an elementary
path (one position, one sample, one path through the glue) by its absolute value or square before
summing; without shared weights and parallel paths that is exactly |P_b| and P_b^2 of each sample.

Cost: one forward and one backward pass over activations, and two weight gradients per strength for
the layers of which both degrees can differ from 0; for the others a sum over activations suffices.

Source: the method's one-step streams, derived from Jiang et al. (arXiv 2201.04194).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from ncap_jax.capacitance import checks, one_step, trace
from ncap_jax.capacitance.checks import MIN_HIDDEN_LAYERS
from ncap_jax.capacitance.line_graph import SIGN, State, Sums
from ncap_jax.capacitance.trace import Apply, parameter_names
from ncap_jax.errors import KernelError
from ncap_jax.ops.dtypes import is_float
from ncap_jax.types import Strength

if TYPE_CHECKING:
    from ncap_jax.capacitance.streams import Node

STRENGTHS: tuple[Strength, ...] = ("signed", "absolute", "squared")


def _check_depth(nodes: Iterable[Node]) -> None:
    """Refuse fewer than four weight layers in a row: an MLP with fewer than three hidden layers."""
    layers = [node for node in nodes if node.use is not None]
    if not layers:
        raise KernelError(
            "the model has no weight layer: no parameter enters a dot product or a convolution "
            "with the data",
            "Pass the model's weights as its parameters",
        )
    deepest = max(layers, key=lambda node: node.depth)
    if deepest.depth <= MIN_HIDDEN_LAYERS:
        names = ", ".join(deepest.use.weight.keys) if deepest.use else ""
        raise KernelError(
            f"the longest path has {deepest.depth} weight layers and ends in {names}, but beta_eff "
            f"needs at least {MIN_HIDDEN_LAYERS + 1} in a row: with fewer, softmax and "
            "cross-entropy make the signed value 0",
            "Use a deeper network, or a probe on its features",
        )


def measure(
    apply: Apply,
    params: Any,
    constants: Any,
    inputs: Array,
    labels: Array,
    mask: Array | None = None,
    strengths: Iterable[Strength] = STRENGTHS,
    *,
    every_edge: bool = False,
) -> State:
    """Sums over one batch; add states leaf by leaf, and take `beta_eff.from_state` of the sum.

    Works under `jit` (apply, strengths and every_edge static), under `vmap` over models, and with
    a batch that is sharded over devices.

    Args:
        apply: (params, constants, inputs) -> logits (batch, classes).
        params: pytree; leaves that enter a dot product or a convolution are weights.
        constants: pytree of anything else that the model needs, such as batch statistics.
        inputs: (batch, ...) floating point.
        labels: (batch,) integers.
        mask: (batch,) bool, False for samples that only pad the batch; None: all count.
        strengths: which of `STRENGTHS` to measure.
        every_edge: give the degrees of all weights, not only where both can differ from 0.

    Raises:
        KernelError: the model has operations that cannot be treated, or too few weight layers.
    """
    if mask is not None:  # padding may hold anything, even NaN
        inputs = jnp.where(mask.reshape(-1, *[1] * (inputs.ndim - 1)), inputs, 0)
    forward_pass = trace.record(apply, params, constants, inputs)
    _check_depth(forward_pass.graph.nodes)
    logits = forward_pass.logits.primal
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    g = jax.nn.softmax(logits, axis=1) - one_hot  # g^L = softmax(a^L) - y
    g = g if mask is None else jnp.where(mask[:, None], g, 0)
    gradients = one_step.cotangents(forward_pass, g)
    leaves = dict(zip(parameter_names(params), jax.tree.leaves(params), strict=True))
    sums: dict[str, Sums] = {}
    for strength in strengths:
        measured = one_step.degrees(forward_pass, gradients, strength)
        sums[strength] = _sums(measured, leaves, strength, every_edge=every_edge)
    count = inputs.shape[0] if mask is None else jnp.sum(mask, dtype=jnp.int32)
    return State(jnp.asarray(count, jnp.int32), sums)


def _sums(
    measured: one_step.Degrees, leaves: dict[str, Array], strength: Strength, *, every_edge: bool
) -> Sums:
    """Weight gradients (3') of the layers, summed for each parameter array over its uses."""
    degrees, total, magnitude = measured
    driven = {key for d in degrees if d.delta_in for key in d.use.weight.keys}
    driving = {key for d in degrees if d.delta_out for key in d.use.weight.keys}
    weights = {key for d in degrees for key in d.use.weight.keys}
    wanted = weights if every_edge else driven & driving
    delta_in: dict[Any, Array] = {}
    delta_out: dict[Any, Array] = {}
    for degree in degrees:
        if wanted.isdisjoint(degree.use.weight.keys):
            continue
        for target, pair in ((delta_in, degree.delta_in), (delta_out, degree.delta_out)):
            if pair is None:
                continue
            gradient = SIGN[strength] * degree.use.weight_gradient(*pair)  # (3')
            for key, part in degree.use.weight.scatter(leaves, gradient).items():
                target[key] = target[key] + part if key in target else part
    if every_edge:
        for key in weights:
            delta_in.setdefault(key, jnp.zeros_like(leaves[key]))
            delta_out.setdefault(key, jnp.zeros_like(leaves[key]))
    return Sums(
        {key: delta_in[key] for key in wanted & set(delta_in)},
        {key: delta_out[key] for key in wanted & set(delta_out)},
        SIGN[strength] * total,
        magnitude,
    )


def init(
    apply: Apply,
    params: Any,
    constants: Any,
    inputs: Any,
    strengths: Iterable[Strength] = STRENGTHS,
    *,
    every_edge: bool = False,
) -> State:
    """An empty accumulator for batches like `inputs`, of which only shape and dtype are read."""
    batch = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    labels = jax.ShapeDtypeStruct(inputs.shape[:1], jnp.int32)
    function = partial(measure, apply, strengths=tuple(strengths), every_edge=every_edge)
    shapes = jax.eval_shape(function, params, constants, batch, labels)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@partial(jax.jit, static_argnames=("apply", "every_edge"), donate_argnames="state")
def update(
    state: State,
    apply: Apply,
    params: Any,
    constants: Any,
    inputs: Array,
    labels: Array,
    mask: Array | None = None,
    *,
    every_edge: bool = False,
) -> State:
    """Add one batch: jitted, with `state` donated. The other arguments are those of `measure`."""
    strengths: Any = tuple(state.sums)
    batch = measure(
        apply, params, constants, inputs, labels, mask, strengths, every_edge=every_edge
    )
    return jax.tree.map(jnp.add, state, batch)


def check(apply: Apply, params: Any, constants: Any, inputs: Any, labels: Any) -> None:
    """Check concrete values before anything is compiled; `measure`, which is traced, cannot.

    Raises:
        KernelError: the batch is empty, the inputs are not finite floating point, the labels are
            not (batch,) integers of the model's classes, or a weight is NaN or infinite.
    """
    checks.check_inputs(inputs)
    named = dict(zip(parameter_names(params), jax.tree.leaves(params), strict=True))
    weights = {name: leaf for name, leaf in named.items() if is_float(leaf)}
    checks.check_finite(weights, checks.DAMAGED_WEIGHTS)
    batch = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    logits = jax.eval_shape(apply, params, constants, batch)
    if getattr(logits, "ndim", None) != 2:
        raise KernelError(
            f"the model returns {logits}", "Return only the logits, of shape (batch, classes)"
        )
    checks.check_labels(labels, inputs.shape[0], logits.shape[1])
