"""The graph on which the one-step streams run: weight layers joined by glue.

Streams start at weight layers and are carried to the next ones by the Jacobian of the glue
between them, all node states held. There are two kinds of glue:

    elementwise     the Jacobian is diagonal: a value is (node, diagonal), and any chain of
                    elementwise operations on one node is one diagonal, its exact derivative
    everything else a `Node` with a linear map from its inputs: rearrangements, sums, pooling,
                    products with a held array, and the points where several streams meet

For a strength's map f (identity, absolute value, square), every factor of an elementary path from
weight to weight, z, the Jacobians and g, is replaced by f of it. Diagonals and held arrays are
mapped by f; all other maps have entries 0 and 1 and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

if TYPE_CHECKING:
    from ncap_jax.capacitance.bilinear import Use

Map = Callable[[Array], Array]
# A strength's map -> the linear map of a glue node.
LinearMap = Callable[[Map], Callable[..., Array]]


@dataclass(frozen=True, eq=False)
class Stream:
    """How a value follows a node: its derivative by the node's output is a diagonal matrix.

    Attributes:
        node: the source of the value.
        dtype: of the value.
        diagonal: in the shape of the value; None: the value is the node's output itself, up to
            an additive constant.
    """

    node: Node
    dtype: Any
    diagonal: Array | None = None

    def forward(self, f: Map, tangent: Array) -> Array:
        """Turn a tangent of the node into one of the value."""
        carried = tangent.astype(self.dtype)
        return carried if self.diagonal is None else f(self.diagonal).astype(self.dtype) * carried

    def backward(self, f: Map, cotangent: Array) -> Array:
        """Turn a cotangent of the value into one of the node."""
        carried = cotangent.astype(self.node.output.dtype)
        return (
            carried if self.diagonal is None else f(self.diagonal).astype(carried.dtype) * carried
        )


@dataclass(frozen=True, eq=False)
class Node:
    """A weight layer's output, or the output of glue that is not elementwise.

    Attributes:
        inputs: the streams that enter; none or one for a weight layer.
        linear: f -> the linear map from the carried inputs to the output; None for weight layers.
        output: shape and dtype of the output.
        use: the weight layer, or None for glue.
        depth: number of weight layers on the longest path to here.
        behind: numbers of the nodes from which glue alone leads to here, this one included.
        reduced: those of them from which the path to here passes a reduction.
    """

    inputs: tuple[Stream, ...]
    linear: LinearMap | None
    output: jax.ShapeDtypeStruct
    use: Use | None = None
    depth: int = 0
    behind: frozenset[int] = field(default_factory=frozenset)
    reduced: frozenset[int] = field(default_factory=frozenset)

    def push(self, f: Map, tangents: list[Array]) -> Array:
        """The tangent of a glue node's output for tangents of its inputs."""
        assert self.linear is not None
        return self.linear(f)(*tangents)

    def pull(self, f: Map, cotangent: Array) -> list[Array]:
        """The transpose of `push`."""
        assert self.linear is not None
        shapes = [jax.ShapeDtypeStruct(s.node.output.shape, s.dtype) for s in self.inputs]
        return list(jax.linear_transpose(self.linear(f), *shapes)(cotangent))


class Graph:
    """Nodes in the order of the forward pass."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def weight_layer(self, use: Use, stream: Stream | None, output: jax.ShapeDtypeStruct) -> Node:
        """Add a weight layer that reads `stream`; None: its input follows no weight."""
        inputs = () if stream is None else (stream,)
        depth = 1 + max((s.node.depth for s in inputs), default=0)
        return self._add(Node(inputs, None, output, use, depth, frozenset({len(self.nodes)})))

    def glue(
        self,
        inputs: tuple[Stream, ...],
        linear: LinearMap,
        output: jax.ShapeDtypeStruct,
        *,
        reduces: bool = False,
    ) -> Node:
        """Add glue; `reduces`: the output is a sum or an extremum over whole dimensions."""
        behind: frozenset[int] = frozenset().union(*(s.node.behind for s in inputs))
        reduced = frozenset().union(*(s.node.reduced for s in inputs))
        reduced = behind if reduces else reduced
        depth = max(s.node.depth for s in inputs)
        own = frozenset({len(self.nodes)})
        return self._add(Node(inputs, linear, output, None, depth, behind | own, reduced))

    def _add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node


def is_statistic(node: Node, source: Node) -> bool:
    """Whether `node` is a statistic that normalises `source`, and is therefore held.

    It is if it is reduced from something that `source` also comes from, unreduced, with no weight
    layer between: the mean and variance of layer and group norm, the sum of a softmax.
    """
    return bool((node.reduced & source.behind) - source.reduced)
