"""The passes over a recorded forward pass: the loss gradient and the one-step streams."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ncap_jax.capacitance.bilinear import Use
from ncap_jax.capacitance.line_graph import MAPS
from ncap_jax.capacitance.primitives import accumulator, is_float
from ncap_jax.capacitance.streams import Graph, Map, Node, Stream
from ncap_jax.capacitance.trace import Trace, Value
from ncap_jax.types import Strength


class Degree(NamedTuple):
    """One weight layer's degrees, each as activation and cotangent of a weight gradient.

    None stands for 0: no weight layer comes after, or none before.
    """

    use: Use
    delta_in: tuple[Array, Array] | None
    delta_out: tuple[Array, Array] | None


def cotangents(trace: Trace, logits: Value, g: Array) -> dict[Use, Array]:
    """The true loss gradient at the output of every weight layer that the loss depends on.

    Args:
        trace: the forward pass.
        logits: its result.
        g: gradient of the loss by the logits, (batch, classes).
    """
    found: dict[Value, Array] = {logits: g}
    for entry in reversed(trace.tape):
        if not any(out in found for out in entry.outputs):
            continue
        for value, part in zip(
            entry.inputs, entry.pull([_or_zero(found, v) for v in entry.outputs])
        ):
            found[value] = found[value] + part if value in found else part
    return {use: found[value] for use, value in trace.outputs.items() if value in found}


def _or_zero(found: dict[Value, Array], value: Value) -> Array | np.ndarray:
    if value in found:
        return found[value]
    if is_float(value.primal):
        return jnp.zeros_like(value.primal)
    return np.zeros(value.primal.shape, jax.dtypes.float0)


def tangents(graph: Graph, f: Map) -> dict[Node, Array]:
    """The tangent stream t behind every node: Lin(1, f(u)), carried by the glue."""
    found: dict[Node, Array] = {}
    for node in graph.nodes:
        if node.use is not None:
            found[node] = node.use.ones(f(node.use.u)).astype(node.shape.dtype)
        else:
            found[node] = node.push(f, [s.forward(f, found[s.node]) for s in node.inputs])
    return found


def degrees(
    trace: Trace, logits: Value, gradients: dict[Use, Array], strength: Strength
) -> tuple[list[Degree], Array, Array]:
    """Degrees of every weight layer, last layer first, and the sums over all edges.

    Args:
        trace: the forward pass.
        logits: its result.
        gradients: from `cotangents`.
        strength: signed, absolute or squared.

    Returns:
        The degrees; () sum of delta_in; () the same with the absolute value taken for each
        sample, unit and position. All without the strength's sign.
    """
    f = MAPS[strength]
    t = tangents(trace.graph, f)
    pending: dict[Node, Array] = {}
    result: list[Degree] = []
    total = magnitude = jnp.zeros((), accumulator(logits.primal.dtype))

    def send(stream: Stream, cotangent: Array) -> None:
        h = stream.backward(f, cotangent)
        pending[stream.node] = pending[stream.node] + h if stream.node in pending else h

    for node in reversed(trace.graph.nodes):
        h = pending.pop(node, None)
        if node.use is None:
            for stream, part in zip(node.inputs, node.pull(f, h) if h is not None else ()):
                send(stream, part)
            continue
        g = gradients.get(node.use)
        if h is not None:
            edges = (h * t[node]).astype(total.dtype)  # <h, Lin(1, u)>
            total, magnitude = total + edges.sum(), magnitude + jnp.abs(edges).sum()
        delta_in = delta_out = None
        if h is not None:
            delta_in = f(node.use.u), h
        if node.inputs and g is not None:
            (stream,) = node.inputs
            delta_out = stream.forward(f, t[stream.node]), f(g)
            if strength != "signed" or not ends_in(trace, node, logits):
                send(stream, node.use.ones_transpose(f(g)))  # h restarts as Lin'(1, g)
        result.append(Degree(node.use, delta_in, delta_out))
    return result, total, magnitude


def ends_in(trace: Trace, node: Node, logits: Value) -> bool:
    """Whether a weight layer's output is, up to a constant, the logits and nothing else.

    Then Lin'(1, g) is the sum of softmax(a) - y over the classes: exactly 0 for every sample.
    """
    stream = logits.stream
    if stream is None or stream.node is not node or stream.diagonal is not None:
        return False
    if node.use is None or not node.use.sums_over_classes():
        return False
    follows = [e for e in trace.tape if any(v.stream and v.stream.node is node for v in e.inputs)]
    ends = [v.stream for entry in follows for v in entry.outputs]
    return all(s is not None and s.node is node and s.diagonal is None for s in ends)
