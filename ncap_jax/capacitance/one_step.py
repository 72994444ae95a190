"""The passes over a recorded forward pass: the loss gradient and the one-step streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ncap_jax.capacitance.line_graph import MAPS
from ncap_jax.ops.dtypes import accumulator, is_float
from ncap_jax.types import Strength

if TYPE_CHECKING:
    from ncap_jax.capacitance.bilinear import Use
    from ncap_jax.capacitance.forward_pass import ForwardPass, Value
    from ncap_jax.capacitance.streams import Graph, Map, Node, Stream


class Degree(NamedTuple):
    """One weight layer's degrees, each as activation and cotangent of a weight gradient.

    Attributes:
        use: the weight layer.
        delta_in: (u, h) of equation (3'); None: 0, because no weight layer follows.
        delta_out: (t, g) of equation (3'); None: 0, because no weight layer precedes.
    """

    use: Use
    delta_in: tuple[Array, Array] | None
    delta_out: tuple[Array, Array] | None


class Degrees(NamedTuple):
    """What one strength needs of a forward pass, without the strength's sign.

    Attributes:
        layers: degrees of every weight layer, last layer first.
        total: (), sum of delta_in over all edges.
        magnitude: (), the same with the absolute value taken for each sample, unit and position.
    """

    layers: list[Degree]
    total: Array
    magnitude: Array


def cotangents(forward_pass: ForwardPass, g: Array) -> dict[Use, Array]:
    """The true loss gradient at the output of every weight layer on which the loss depends.

    Args:
        forward_pass: of the model.
        g: gradient of the loss by the logits, (batch, classes).
    """
    found: dict[Value, Array] = {forward_pass.logits: g}
    for entry in reversed(forward_pass.tape):
        if not any(out in found for out in entry.outputs):
            continue
        for value, part in zip(
            entry.inputs, entry.pull([_found_or_zero(found, v) for v in entry.outputs])
        ):
            found[value] = found[value] + part if value in found else part
    return {use: found[value] for use, value in forward_pass.outputs.items() if value in found}


def _found_or_zero(found: dict[Value, Array], value: Value) -> Array | np.ndarray:
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
            found[node] = node.use.ones(f(node.use.u)).astype(node.output.dtype)
        else:
            found[node] = node.push(f, [s.forward(f, found[s.node]) for s in node.inputs])
    return found


def degrees(forward_pass: ForwardPass, gradients: dict[Use, Array], strength: Strength) -> Degrees:
    """Degrees of every weight layer and the sums over all edges.

    Args:
        forward_pass: of the model.
        gradients: from `cotangents`.
        strength: signed, absolute or squared.
    """
    f = MAPS[strength]
    t = tangents(forward_pass.graph, f)
    arrived: dict[Node, Array] = {}
    layers: list[Degree] = []
    total = magnitude = jnp.zeros((), accumulator(forward_pass.logits.primal.dtype))

    def send(stream: Stream, cotangent: Array) -> None:
        h = stream.backward(f, cotangent)
        arrived[stream.node] = arrived[stream.node] + h if stream.node in arrived else h

    for node in reversed(forward_pass.graph.nodes):
        h = arrived.pop(node, None)
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
            if strength != "signed" or not forward_pass.ends_in(node):
                send(stream, node.use.ones_transpose(f(g)))  # h restarts as Lin'(1, g)
        layers.append(Degree(node.use, delta_in, delta_out))
    return Degrees(layers, total, magnitude)
