"""The record of one forward pass: its values, its tape and its graph.

`trace` makes it from a model, `one_step` reads the true gradients off its tape and the degrees
off its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from ncap_jax.capacitance.bilinear import Use, Weight
    from ncap_jax.capacitance.streams import Graph, Node, Stream


@dataclass(frozen=True, eq=False)
class Value:
    """An array of the forward pass and what it depends on.

    Attributes:
        primal: the array.
        stream: how it follows the last weight layers; None: held, or not behind a weight layer.
        active: whether it lies behind a weight layer, so that a loss gradient passes through it.
        data: whether it depends on the model's inputs.
        weight: the rearranged parameters that it is, if it is nothing more.
        mixed: names of the parameters that it depends on in any other way, inputs excluded.
    """

    primal: Any
    stream: Stream | None = None
    active: bool = field(default=False, kw_only=True)
    data: bool = field(default=False, kw_only=True)
    weight: Weight | None = None
    mixed: frozenset[str] = frozenset()

    @property
    def parameters(self) -> frozenset[str]:
        """Names of all parameters that it is made of, inputs excluded."""
        return self.mixed | frozenset(self.weight.keys if self.weight else ())


@dataclass(frozen=True, eq=False)
class TapeEntry:
    """One operation of the forward pass.

    Attributes:
        inputs: the values through which a gradient passes.
        outputs: all results.
        pull: cotangents of the outputs -> cotangents of the inputs.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    pull: Callable[[Any], Sequence[Array]]


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A model's forward pass on one batch.

    Attributes:
        graph: weight layers and the glue between them.
        tape: the operations behind the first weight layers, in order.
        outputs: the result of every weight layer.
        logits: the result of the model.
    """

    graph: Graph
    tape: Sequence[TapeEntry]
    outputs: Mapping[Use, Value]
    logits: Value

    def ends_in(self, node: Node) -> bool:
        """Whether a weight layer's output is, up to a constant, the logits and nothing else.

        Then Lin'(1, g) is the sum of softmax(a) - y over the classes: exactly 0 for every sample.
        """
        stream = self.logits.stream
        if stream is None or stream.node is not node or stream.diagonal is not None:
            return False
        if node.use is None or not node.use.sums_over_classes():
            return False
        reads = [e for e in self.tape if any(v.stream and v.stream.node is node for v in e.inputs)]
        results = [value.stream for entry in reads for value in entry.outputs]
        return all(s is not None and s.node is node and s.diagonal is None for s in results)
