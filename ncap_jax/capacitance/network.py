"""beta_eff of a whole network: edge degrees by one-step streams.

Equations (1)-(3) hold for every weight layer that is bilinear in (weight, input), joined by any
glue. With u the input of a weight layer, g the loss gradient at its output, and "next" every
weight layer that glue alone leads to:

    t   tangent stream: restarts at each weight layer as Lin(1, u), carried forward by the glue
    h   cotangent stream: restarts as Lin'(1, g), carried backward by the same Jacobians

    delta_out of a layer = -alpha mean_b weight gradient(t at its input, g)                (3')
    delta_in  of a layer = -alpha mean_b weight gradient(u, h at its output)               (3')
    1' P 1 = -alpha mean_b sum over layers of <h, Lin(1, u)>

Shared weights (convolution, a layer used twice) are one edge each. Node states are held: u, the
slopes, g, the statistics of layer and group norm and attention maps; g itself is the true
gradient, all of these included. Strengths other than signed replace every factor of an elementary
path (one position, one sample, one way through the glue) by its absolute value or square before
summing; without shared weights and parallel ways that is |P_b| and P_b^2 of each sample exactly.

Cost: one forward and one backward pass by activations, and two weight gradients a strength for
the layers where both degrees differ from 0; for the others a sum over activations suffices.

Source: the method's one-step streams, derived from Jiang et al. (arXiv 2201.04194).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ncap_jax.capacitance import checks, one_step
from ncap_jax.capacitance.bilinear import Weight
from ncap_jax.capacitance.checks import MIN_HIDDEN_LAYERS
from ncap_jax.capacitance.line_graph import SIGN, State, Sums
from ncap_jax.capacitance.primitives import is_float
from ncap_jax.capacitance.trace import Trace, Value
from ncap_jax.errors import KernelError
from ncap_jax.types import Strength

STRENGTHS: tuple[Strength, ...] = ("signed", "absolute", "squared")

# (params, constants, inputs) -> logits (batch, classes)
Apply = Callable[[Any, Any, Array], Array]


def parameter_names(params: Any) -> list[str]:
    """A name for each leaf, such as `layers/0/kernel`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _forward(apply: Apply, params: Any, constants: Any, inputs: Array) -> tuple[Trace, Value]:
    closed = jax.make_jaxpr(apply)(params, constants, inputs)
    trace, arguments = Trace(), []
    for name, leaf in zip(parameter_names(params), jax.tree.leaves(params), strict=True):
        arguments.append(Value(leaf, weight=Weight.parameter(name) if is_float(leaf) else None))
    arguments += [Value(leaf) for leaf in jax.tree.leaves(constants)]
    outputs = trace.run(closed, [*arguments, Value(inputs, data=True)])
    if len(outputs) != 1 or outputs[0].primal.ndim != 2:
        shapes = [value.primal.shape for value in outputs]
        raise KernelError(f"the model returns arrays of shapes {shapes}", "Return only the logits")
    _check_depth(trace)
    return trace, outputs[0]


def _check_depth(trace: Trace) -> None:
    """Four weight layers in a row at least, as for an MLP with three hidden layers."""
    layers = [node for node in trace.graph.nodes if node.use is not None]
    if not layers:
        raise KernelError(
            "the model has no weight layer: no parameter enters a dot product or a convolution "
            "with the data",
            "beta_eff is defined on weights; check that the model's parameters were passed",
        )
    deepest = max(layers, key=lambda node: node.depth)
    if deepest.depth <= MIN_HIDDEN_LAYERS:
        names = ", ".join(deepest.use.weight.keys) if deepest.use else ""
        raise KernelError(
            f"the longest path has {deepest.depth} weight layers and ends in {names}; beta_eff "
            f"needs {MIN_HIDDEN_LAYERS + 1} in a row, for with fewer no weight both drives and is "
            "driven",
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
    every_edge: bool = False,
) -> State:
    """Sums over one batch; add states leaf by leaf, and take `beta_eff.from_state` of the sum.

    Works under `jit` (apply, strengths and every_edge static), `vmap` over models and with a
    batch that is sharded over devices.

    Args:
        apply: (params, constants, inputs) -> logits (batch, classes).
        params: pytree; leaves that enter a dot product or a convolution are weights.
        constants: pytree of anything else that the model needs, batch statistics for instance.
        inputs: (batch, ...) floating point.
        labels: (batch,) integers.
        mask: (batch,) bool, False for samples that only pad the batch; None: all count.
        strengths: of `STRENGTHS`.
        every_edge: degrees of all weights instead of those of which both can differ from 0.

    Raises:
        KernelError: the model has operations that cannot be treated, or too few weight layers.
    """
    if mask is not None:  # padding may hold anything, NaN included
        inputs = jnp.where(mask.reshape(-1, *[1] * (inputs.ndim - 1)), inputs, 0)
    trace, logits = _forward(apply, params, constants, inputs)
    one_hot = jax.nn.one_hot(labels, logits.primal.shape[1], dtype=logits.primal.dtype)
    g = jax.nn.softmax(logits.primal, axis=1) - one_hot  # g^L = softmax(a^L) - y
    g = g if mask is None else jnp.where(mask[:, None], g, 0)
    cotangents = one_step.cotangents(trace, logits, g)
    leaves = dict(zip(parameter_names(params), jax.tree.leaves(params), strict=True))
    sums: dict[str, Sums] = {
        strength: _sums(trace, logits, cotangents, leaves, strength, every_edge)
        for strength in strengths
    }
    count = inputs.shape[0] if mask is None else jnp.sum(mask, dtype=jnp.int32)
    return State(jnp.asarray(count, jnp.int32), sums)


def _sums(trace, logits, cotangents, leaves, strength, every_edge) -> Sums:
    degrees, total, magnitude = one_step.degrees(trace, logits, cotangents, strength)
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
    every_edge: bool = False,
) -> State:
    """An empty accumulator for batches of the shape and dtype of `inputs`, which is not read."""
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
    every_edge: bool = False,
) -> State:
    """Adds one batch; jitted, the accumulator donated. Arguments as in `measure`."""
    strengths: Any = tuple(state.sums)
    batch = measure(apply, params, constants, inputs, labels, mask, strengths, every_edge)
    return jax.tree.map(jnp.add, state, batch)


def check(apply: Apply, params: Any, constants: Any, inputs: Any, labels: Any) -> None:
    """Looks at concrete values before anything is compiled; `measure` itself cannot.

    Raises:
        KernelError: an empty batch, inputs that are not finite floating point, labels that are
            not (batch,) integers of the model's classes, or weights with NaN or infinity.
    """
    checks.check_inputs(inputs)
    for name, leaf in zip(parameter_names(params), jax.tree.leaves(params), strict=True):
        if is_float(leaf):
            checks.check_finite(leaf, name, "The model diverged or was loaded damaged")
    batch = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    logits = jax.eval_shape(apply, params, constants, batch)
    if getattr(logits, "ndim", None) != 2:
        raise KernelError(f"the model returns {logits}", "Return only logits (batch, classes)")
    checks.check_labels(labels, inputs.shape[0], logits.shape[1])
