"""Runs a model's jaxpr and records what the streams need.

The model is any function of parameters and inputs; its code is not touched. Every equation is
evaluated as it stands (weight layers in full precision) and, where it lies behind a weight,
recorded twice: on a tape that carries the true loss gradient backwards, and in the graph of
`streams`, which holds the states that the method holds.

    dot_general, conv_general_dilated with a rearranged parameter   weight layer
    the same with a held array                                      glue, linear
    dot_general of two streams (attention scores)                   a state: held, no stream
    elementwise                                                     a diagonal
    sums and extrema that normalise their own source                held, no stream
    rearrangements, sums, pooling                                   glue, linear
    jit, remat, custom derivatives, scan                            run inside (scan: unrolled)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array

from ncap_jax.capacitance import bilinear, depthwise
from ncap_jax.capacitance.bilinear import Use, Weight
from ncap_jax.capacitance.primitives import (
    CONTROL,
    INLINE,
    LINEAR,
    REARRANGEMENTS,
    REDUCTIONS,
    SHIFTS,
    bind,
    inner_jaxpr,
    is_elementwise,
    is_float,
    shape,
    struct,
    where,
)
from ncap_jax.capacitance.streams import Graph, Map, Stream, is_statistic
from ncap_jax.errors import KernelError


@dataclass(frozen=True, eq=False)
class Value:
    """An array of the forward pass and what it depends on.

    Attributes:
        primal: the array.
        stream: how it follows the last weight layers; None: held, or behind no weight.
        active: it lies behind a weight layer, so that the loss gradient reaches the weight
            through it.
        data: it depends on the model's inputs.
        weight: the rearranged parameters that it is, if it is no more than that.
        mixed: parameters that it depends on in any other way, inputs excluded.
    """

    primal: Any
    stream: Stream | None = None
    active: bool = False
    data: bool = False
    weight: Weight | None = None
    mixed: frozenset[str] = frozenset()

    @property
    def parameters(self) -> frozenset[str]:
        """Names of all parameters it is made of, inputs excluded."""
        return self.mixed | frozenset(self.weight.keys if self.weight else ())


@dataclass(frozen=True, eq=False)
class Entry:
    """One tape entry: outputs' cotangents to inputs' cotangents."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    pull: Callable[[Any], Sequence[Array]]


class Trace:
    """One forward pass with its tape and its graph."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.tape: list[Entry] = []
        self.outputs: dict[Use, Value] = {}
        self.calls: list[jex.JaxprEqn] = []  # what is being run inside of, outermost first

    def run(self, closed: jex.ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Evaluates a jaxpr on values."""
        env: dict[Any, Value] = {}
        env.update(zip(closed.jaxpr.constvars, map(Value, closed.consts)))
        env.update(zip(closed.jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return Value(atom.val) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in closed.jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars])))
        return [read(v) for v in closed.jaxpr.outvars]

    def equation(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Evaluates one equation by the rule for its kind."""
        if depthwise.is_depthwise(eqn):
            eqn = depthwise.as_convolution(eqn)
        name = eqn.primitive.name
        interesting = any(v.active or v.weight or v.mixed for v in values)
        if name == "stop_gradient":
            return [Value(v.primal, data=v.data) for v in values]
        if name in bilinear.PRIMITIVES and interesting:
            return [self._product(eqn, values)]
        if is_elementwise(eqn) and any(v.active for v in values):
            return [self._elementwise(eqn, values)]
        if name in INLINE | CONTROL and interesting:
            self.calls.append(eqn)
            inside = self._control if name in CONTROL else self._inlined
            outputs = inside(eqn, values)
            self.calls.pop()
            return outputs
        if name in REARRANGEMENTS and not any(v.data or v.mixed for v in values):
            made = _rearranged(eqn, values)
            if made is not None:
                return made
        if name in LINEAR and any(v.stream for v in values):
            return self._linear(eqn, values)
        return self._held(eqn, values)

    def _record(self, function: Callable, values: Sequence[Value]) -> tuple[list[Any], Any, Any]:
        """Outputs of a function, and its tape entry's pullback and inputs, where there are any."""
        places = [i for i, v in enumerate(values) if v.active and is_float(v.primal)]

        def chosen(*primals: Any) -> list[Any]:
            full = [v.primal for v in values]
            for place, primal in zip(places, primals):
                full[place] = primal
            return function(*full)

        inputs = tuple(values[i] for i in places)
        if not inputs:
            return chosen(), None, inputs
        outputs, pull = jax.vjp(chosen, *(v.primal for v in inputs))
        return outputs, pull, inputs

    def _finish(self, values: list[Value], pull: Any, inputs: tuple[Value, ...]) -> list[Value]:
        if pull is not None:
            self.tape.append(Entry(inputs, tuple(values), pull))
        return values

    def _held(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """An operation that no stream passes."""
        if any(v.stream for v in values):
            raise KernelError(
                f"{eqn.primitive.name!r} in {self._where(eqn)} lies between weight layers and is "
                "neither elementwise nor a rearrangement, a sum, a pooling or a product",
                "Measure a probe on the model's features instead, or stop its gradient",
            )
        outputs, pull, inputs = self._record(lambda *x: bind(eqn, *x), values)
        data = any(v.data for v in values)
        mixed = frozenset().union(*(v.parameters for v in values)) if not data else frozenset()
        made = [Value(x, None, bool(inputs) and is_float(x), data, None, mixed) for x in outputs]
        return self._finish(made, pull, inputs)

    def _elementwise(self, eqn: jex.JaxprEqn, values: list[Value]) -> Value:
        full = shape(eqn.outvars[0])
        values = [v if v.stream is None else self._broadcast(v, full) for v in values]
        (out,), pull, inputs = self._record(lambda *x: bind(eqn, *x), values)
        if pull is None or not is_float(out):
            return Value(out, data=True)
        stream = self._diagonal(eqn, values, inputs, pull, out)
        return self._finish([Value(out, stream, True, True)], pull, inputs)[0]

    def _diagonal(self, eqn, values, inputs, pull, out) -> Stream | None:
        """The stream of an elementwise result; a new node where several meet."""
        live = [v for v in inputs if v.stream is not None]
        nodes = {id(v.stream.node): v.stream.node for v in live}
        kept = [n for n in nodes.values() if not any(is_statistic(n, m) for m in nodes.values())]
        live = [v for v in live if v.stream.node in kept]
        if len(live) == 1 and eqn.primitive.name in SHIFTS and live[0] is values[0]:
            return replace(live[0].stream, dtype=out.dtype)
        slopes = dict(zip(map(id, inputs), pull([jnp.ones_like(out)])))
        streams = []
        for node in kept:
            parts = [_times(slopes[id(v)], v.stream) for v in live if v.stream.node is node]
            streams.append(Stream(node, out.dtype, sum(parts[1:], parts[0])))
        if len(streams) < 2:
            return streams[0] if streams else None
        return Stream(self.graph.glue(tuple(streams), _add, struct(out)), out.dtype)

    def _broadcast(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Implicit broadcasting of a stream becomes a rearrangement of its own."""
        if value.primal.shape == shape:
            return value
        return self._call(lambda x: jnp.broadcast_to(x, shape), value)

    def _linear(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Glue whose Jacobian has entries 0 and 1; held operands contribute nothing."""
        outputs, pull, inputs = self._record(lambda *x: bind(eqn, *x), values)
        places = [i for i, v in enumerate(values) if v.stream is not None]
        streams = tuple(v.stream for v in values if v.stream is not None)

        def part(index: int, *primals: Array) -> Array:
            full = [v.primal for v in values]
            for place, primal in zip(places, primals):
                full[place] = primal
            return bind(eqn, *full)[index]

        made = []
        for index, out in enumerate(outputs):
            # Pooling by maxima is linear only at the primal; for the rest this is the operation.
            _, linear = jax.linearize(partial(part, index), *(values[i].primal for i in places))
            reduces = eqn.primitive.name in REDUCTIONS
            node = self.graph.glue(streams, _unmapped(linear), struct(out), reduces)
            made.append(Value(out, Stream(node, out.dtype), True, True))
        return self._finish(made, pull, inputs)

    def _product(self, eqn: jex.JaxprEqn, values: list[Value]) -> Value:
        """A dot product or convolution: weight layer, glue, or a state that is held."""
        sides = [i for i, v in enumerate(values) if v.weight is not None]
        if len(sides) == 1:
            return self._weight_layer(eqn, values, sides[0])
        for one, other in (values, values[::-1]):
            if one.mixed and (other.active or other.data):
                raise KernelError(
                    f"the weight made of {', '.join(sorted(one.mixed))} is computed from its "
                    f"parameters before it meets the data in {self._where(eqn)}",
                    "Only parameters that enter as they are, or rearranged, have edges of their "
                    "own; merge the computed weight into one parameter first",
                )
        name, params = eqn.primitive.name, eqn.params
        (out,), pull, inputs = self._record(lambda *x: [bilinear.apply(name, params, *x)], values)
        data = any(v.data for v in values)
        mixed = frozenset().union(*(v.parameters for v in values)) if not data else frozenset()
        stream = self._bilinear_glue(eqn, values, out)
        made = Value(out, stream, bool(inputs), data, None, mixed)
        return self._finish([made], pull, inputs)[0]

    def _bilinear_glue(self, eqn: jex.JaxprEqn, values: list[Value], out: Array) -> Stream | None:
        """A product with a held array carries a stream; of two streams it is a state."""
        places = [i for i, v in enumerate(values) if v.stream is not None]
        if len(places) != 1:
            return None
        (place,) = places
        held = values[1 - place].primal

        def linear(f: Map) -> Callable[..., Array]:
            def product(t: Array) -> Array:
                pair = (t, f(held)) if place == 0 else (f(held), t)
                return bilinear.apply(eqn.primitive.name, eqn.params, *pair)

            return product

        stream = values[place].stream
        assert stream is not None
        return Stream(self.graph.glue((stream,), linear, struct(out)), out.dtype)

    def _weight_layer(self, eqn: jex.JaxprEqn, values: list[Value], side: int) -> Value:
        weight, u = values[side], values[1 - side]
        assert weight.weight is not None
        if eqn.primitive.name == "conv_general_dilated" and (
            side == 0 or eqn.params["batch_group_count"] != 1
        ):
            raise KernelError(
                f"the convolution in {self._where(eqn)} does not use "
                f"{', '.join(weight.weight.keys)} as a layer does",
                "Let the parameter be the right operand, with batch_group_count 1",
            )
        name, params, full = eqn.primitive.name, dict(eqn.params), shape(eqn.outvars[0])
        use = Use(name, params, side, weight.weight, weight.primal, u.primal, full)
        (out,), pull, inputs = self._record(lambda x: [use.linear(weight.primal, x)], [u])
        node = self.graph.weight_layer(use, u.stream, struct(out))
        made = Value(out, Stream(node, out.dtype), True, True)
        self.outputs[use] = made
        return self._finish([made], pull, inputs)[0]

    def _where(self, eqn: jex.JaxprEqn) -> str:
        return where(eqn, *reversed(self.calls))

    def _inlined(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        return self.run(inner_jaxpr(eqn), values)

    def _control(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Unrolls a scan; other control flow has no fixed graph."""
        if eqn.primitive.name != "scan":
            raise KernelError(
                f"{eqn.primitive.name!r} in {self._where(eqn)} has weights or their results inside",
                "Write the layers out, or loop over them with scan",
            )
        consts, carried = _scan_sizes(eqn)
        fixed, carry, sliced = (
            values[:consts],
            values[consts : consts + carried],
            values[consts + carried :],
        )
        steps = range(eqn.params["length"])
        rows = []
        for step in reversed(steps) if eqn.params["reverse"] else steps:
            at = partial(jax.lax.index_in_dim, index=step, keepdims=False)
            row = [self._call(at, value) for value in sliced]
            out = self.run(eqn.params["jaxpr"], [*fixed, *carry, *row])
            carry = out[:carried]
            rows.append(out[carried:])
        rows = rows[::-1] if eqn.params["reverse"] else rows
        return [*carry, *(self._call(lambda *x: jnp.stack(x), *column) for column in zip(*rows))]

    def _call(self, function: Callable, *values: Value) -> Value:
        """Applies a function of arrays by the same rules as the model's own code."""
        return self.run(jax.make_jaxpr(function)(*(v.primal for v in values)), values)[0]


def _scan_sizes(eqn: jex.JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried.

    Read off the shapes, for the parameters that say so are named otherwise from JAX 0.12 on: what
    is sliced or stacked has one axis less inside.
    """
    inner = inner_jaxpr(eqn).jaxpr
    sliced = sum(shape(o) != shape(i) for o, i in zip(eqn.invars, inner.invars))
    carried = sum(shape(o) == shape(i) for o, i in zip(eqn.outvars, inner.outvars))
    return len(eqn.invars) - carried - sliced, carried


def _unmapped(linear: Callable[..., Array]) -> Callable[[Map], Callable[..., Array]]:
    """A linear map with entries 0 and 1 is the same for every strength."""
    return lambda _: linear


def _times(slope: Array, stream: Stream) -> Array:
    return slope if stream.diagonal is None else slope * stream.diagonal.astype(slope.dtype)


def _add(_: Map) -> Callable[..., Array]:
    return lambda *x: sum(x[1:], x[0])


def _rearranged(eqn: jex.JaxprEqn, values: list[Value]) -> list[Value] | None:
    """Rearranged parameters, and constants, are a weight still."""
    weights = [v.weight for v in values if v.weight is not None]
    if not weights:
        return None
    keys = tuple(sorted({key for weight in weights for key in weight.keys}))

    def build(index: int, leaves: dict[str, Array]) -> Array:
        operands = (v.weight.build(leaves) if v.weight else v.primal for v in values)
        return bind(eqn, *operands)[index]

    outputs = bind(eqn, *(v.primal for v in values))
    return [Value(x, weight=Weight(keys, partial(build, i))) for i, x in enumerate(outputs)]
