"""Run a model's jaxpr and record what the streams need.

The model is any function of parameters and inputs; its code is not touched. Every equation is
evaluated as it stands (weight layers in full precision) and, where it lies behind a weight layer,
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
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array

from ncap_jax.capacitance import bilinear, primitives
from ncap_jax.capacitance.bilinear import Use, Weight
from ncap_jax.capacitance.forward_pass import ForwardPass, TapeEntry, Value
from ncap_jax.capacitance.primitives import shape
from ncap_jax.capacitance.streams import Graph, LinearMap, Map, Stream, is_statistic
from ncap_jax.errors import KernelError
from ncap_jax.ops import convolutions, equations
from ncap_jax.ops.dtypes import is_float, struct
from ncap_jax.ops.equations import bind

# (params, constants, inputs) -> logits (batch, classes)
Apply = Callable[[Any, Any, Array], Array]
# Cotangents of an operation's outputs -> cotangents of those inputs through which they pass.
Pull = Callable[[Any], Sequence[Array]]


def parameter_names(params: Any) -> list[str]:
    """A name for each leaf, such as `layers/0/kernel`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def record(apply: Apply, params: Any, constants: Any, inputs: Array) -> ForwardPass:
    """Run a model on a batch; the arguments are those of `network.measure`.

    Raises:
        KernelError: an operation cannot be treated, or the model returns more than logits.
    """
    closed = jax.make_jaxpr(apply)(params, constants, inputs)
    arguments = [
        Value(leaf, weight=Weight.parameter(name) if is_float(leaf) else None)
        for name, leaf in zip(parameter_names(params), jax.tree.leaves(params), strict=True)
    ]
    arguments += [Value(leaf) for leaf in jax.tree.leaves(constants)]
    trace = Trace()
    outputs = trace.run(closed, [*arguments, Value(inputs, data=True)])
    if len(outputs) != 1 or outputs[0].primal.ndim != 2:
        shapes = [value.primal.shape for value in outputs]
        raise KernelError(
            f"the model returns arrays of shapes {shapes}",
            "Return only the logits, of shape (batch, classes)",
        )
    return ForwardPass(trace.graph, trace.tape, trace.outputs, outputs[0])


class Evaluated(NamedTuple):
    """An operation's results, and what its tape entry needs.

    Attributes:
        outputs: the arrays.
        pull: None if no gradient passes through the operation.
        inputs: the values through which it passes.
    """

    outputs: list[Any]
    pull: Pull | None
    inputs: tuple[Value, ...]


class Trace:
    """A forward pass that is being run, with its tape and its graph."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.tape: list[TapeEntry] = []
        self.outputs: dict[Use, Value] = {}
        self.calls: list[jex.JaxprEqn] = []  # the calls that are being run, outermost first

    def run(self, closed: jex.ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Evaluate a jaxpr on values."""
        env: dict[Any, Value] = {}
        env.update(zip(closed.jaxpr.constvars, map(Value, closed.consts)))
        env.update(zip(closed.jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return Value(atom.val) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in closed.jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars])))
        return [read(v) for v in closed.jaxpr.outvars]

    def equation(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Evaluate one equation by the rule for its kind."""
        eqn = convolutions.as_general(eqn)
        name = eqn.primitive.name
        interesting = any(v.active or v.weight or v.mixed for v in values)
        if name == "stop_gradient":
            return [Value(v.primal, data=v.data) for v in values]
        if name in bilinear.PRIMITIVES and interesting:
            return [self._product(eqn, values)]
        if primitives.is_elementwise(eqn) and any(v.active for v in values):
            return [self._elementwise(eqn, values)]
        if name in equations.INLINE | primitives.CONTROL and interesting:
            self.calls.append(eqn)
            inside = self._control if name in primitives.CONTROL else self._inlined
            outputs = inside(eqn, values)
            self.calls.pop()
            return outputs
        if name in primitives.REARRANGEMENTS and not any(v.data or v.mixed for v in values):
            made = _rearranged(eqn, values)
            if made is not None:
                return made
        if name in primitives.LINEAR and any(v.stream for v in values):
            return self._linear(eqn, values)
        return self._held(eqn, values)

    def _evaluate(self, function: Callable[..., list[Any]], values: Sequence[Value]) -> Evaluated:
        """Results of a function, with its pullback if a gradient passes through it."""
        places = [i for i, v in enumerate(values) if v.active and is_float(v.primal)]

        def chosen(*primals: Any) -> list[Any]:
            full = [v.primal for v in values]
            for place, primal in zip(places, primals):
                full[place] = primal
            return function(*full)

        inputs = tuple(values[i] for i in places)
        if not inputs:
            return Evaluated(chosen(), None, inputs)
        outputs, pull = jax.vjp(chosen, *(v.primal for v in inputs))
        return Evaluated(outputs, pull, inputs)

    def _finish(self, values: list[Value], evaluated: Evaluated) -> list[Value]:
        """Put an operation with these results on the tape if a gradient passes through it."""
        if evaluated.pull is not None:
            self.tape.append(TapeEntry(evaluated.inputs, tuple(values), evaluated.pull))
        return values

    def _held(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """An operation through which no stream passes."""
        if any(v.stream for v in values):
            raise KernelError(
                f"{eqn.primitive.name!r} in {self._location(eqn)} lies between weight layers and "
                "is neither elementwise nor a rearrangement, a sum, a pooling or a product",
                "Measure a probe on the model's features instead, or stop its gradient",
            )
        evaluated = self._evaluate(lambda *x: bind(eqn, *x), values)
        data, mixed = any(v.data for v in values), _mixed(values)
        made = [
            Value(x, active=bool(evaluated.inputs) and is_float(x), data=data, mixed=mixed)
            for x in evaluated.outputs
        ]
        return self._finish(made, evaluated)

    def _elementwise(self, eqn: jex.JaxprEqn, values: list[Value]) -> Value:
        full = shape(eqn.outvars[0])
        values = [v if v.stream is None else self._broadcast(v, full) for v in values]
        evaluated = self._evaluate(lambda *x: bind(eqn, *x), values)
        (out,) = evaluated.outputs
        if evaluated.pull is None or not is_float(out):
            return Value(out, data=True)
        stream = self._diagonal(eqn, values, evaluated)
        return self._finish([Value(out, stream, active=True, data=True)], evaluated)[0]

    def _diagonal(
        self, eqn: jex.JaxprEqn, values: Sequence[Value], evaluated: Evaluated
    ) -> Stream | None:
        """The stream of an elementwise result; a new node where several streams meet."""
        assert evaluated.pull is not None
        (out,) = evaluated.outputs
        live = [(v, v.stream) for v in evaluated.inputs if v.stream is not None]
        nodes = {id(stream.node): stream.node for _, stream in live}
        kept = [n for n in nodes.values() if not any(is_statistic(n, m) for m in nodes.values())]
        live = [(v, stream) for v, stream in live if stream.node in kept]
        if len(live) == 1 and eqn.primitive.name in primitives.SHIFTS and live[0][0] is values[0]:
            return replace(live[0][1], dtype=out.dtype)
        slopes = dict(zip(map(id, evaluated.inputs), evaluated.pull([jnp.ones_like(out)])))
        streams = []
        for node in kept:
            parts = [_times(slopes[id(v)], stream) for v, stream in live if stream.node is node]
            streams.append(Stream(node, out.dtype, sum(parts[1:], parts[0])))
        if len(streams) < 2:
            return streams[0] if streams else None
        return Stream(self.graph.glue(tuple(streams), _add, struct(out)), out.dtype)

    def _broadcast(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Turn the implicit broadcasting of a stream into a rearrangement of its own."""
        if value.primal.shape == shape:
            return value
        return self._call(lambda x: jnp.broadcast_to(x, shape), value)

    def _linear(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Glue whose Jacobian has entries 0 and 1; held operands contribute nothing."""
        evaluated = self._evaluate(lambda *x: bind(eqn, *x), values)
        places = [i for i, v in enumerate(values) if v.stream is not None]
        streams = tuple(v.stream for v in values if v.stream is not None)

        def part(index: int, *primals: Array) -> Array:
            full = [v.primal for v in values]
            for place, primal in zip(places, primals):
                full[place] = primal
            return bind(eqn, *full)[index]

        made = []
        reduces = eqn.primitive.name in primitives.REDUCTIONS
        for index, out in enumerate(evaluated.outputs):
            # Max pooling is linear only at the primal; every other operation is itself linear.
            _, linear = jax.linearize(partial(part, index), *(values[i].primal for i in places))
            node = self.graph.glue(streams, _unmapped(linear), struct(out), reduces=reduces)
            made.append(Value(out, Stream(node, out.dtype), active=True, data=True))
        return self._finish(made, evaluated)

    def _product(self, eqn: jex.JaxprEqn, values: list[Value]) -> Value:
        """A dot product or convolution: a weight layer, glue, or a state that is held."""
        sides = [i for i, v in enumerate(values) if v.weight is not None]
        if len(sides) == 1:
            return self._weight_layer(eqn, values, sides[0])
        for one, other in (values, values[::-1]):
            if one.mixed and (other.active or other.data):
                raise KernelError(
                    "a weight that is computed from the parameters "
                    f"{', '.join(sorted(one.mixed))} meets the data in {self._location(eqn)}",
                    "Make the computed weight a parameter itself: only parameters that are used "
                    "unchanged or rearranged have edges",
                )
        name, params = eqn.primitive.name, eqn.params
        evaluated = self._evaluate(lambda *x: [bilinear.apply(name, params, *x)], values)
        (out,) = evaluated.outputs
        made = Value(
            out,
            self._bilinear_glue(eqn, values, out),
            active=bool(evaluated.inputs),
            data=any(v.data for v in values),
            mixed=_mixed(values),
        )
        return self._finish([made], evaluated)[0]

    def _bilinear_glue(self, eqn: jex.JaxprEqn, values: list[Value], out: Array) -> Stream | None:
        """The stream through a product with a held array; a product of two streams is a state."""
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
                f"the convolution in {self._location(eqn)} does not use "
                f"{', '.join(weight.weight.keys)} as a layer does",
                "Make the parameter the right operand, with batch_group_count=1",
            )
        name, params, full = eqn.primitive.name, dict(eqn.params), shape(eqn.outvars[0])
        use = Use(name, params, side, weight.weight, weight.primal, u.primal, full)
        evaluated = self._evaluate(lambda x: [use.linear(weight.primal, x)], [u])
        (out,) = evaluated.outputs
        node = self.graph.weight_layer(use, u.stream, struct(out))
        made = Value(out, Stream(node, out.dtype), active=True, data=True)
        self.outputs[use] = made
        return self._finish([made], evaluated)[0]

    def _location(self, eqn: jex.JaxprEqn) -> str:
        return primitives.source_location(eqn, *reversed(self.calls))

    def _inlined(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        return self.run(equations.inner_jaxpr(eqn), values)

    def _control(self, eqn: jex.JaxprEqn, values: list[Value]) -> list[Value]:
        """Unroll a scan; other control flow has no fixed graph."""
        if eqn.primitive.name != "scan":
            raise KernelError(
                f"{eqn.primitive.name!r} in {self._location(eqn)} operates on weights or on what "
                "depends on them",
                "Write the layers out, or loop over them with scan",
            )
        consts, carried = primitives.scan_sizes(eqn)
        fixed, carry, sliced = (
            values[:consts],
            values[consts : consts + carried],
            values[consts + carried :],
        )
        steps = range(eqn.params["length"])
        rows = []
        for step in reversed(steps) if eqn.params["reverse"] else steps:
            take = partial(jax.lax.index_in_dim, index=step, keepdims=False)
            row = [self._call(take, value) for value in sliced]
            out = self.run(eqn.params["jaxpr"], [*fixed, *carry, *row])
            carry = out[:carried]
            rows.append(out[carried:])
        rows = rows[::-1] if eqn.params["reverse"] else rows
        return [*carry, *(self._call(lambda *x: jnp.stack(x), *column) for column in zip(*rows))]

    def _call(self, function: Callable[..., Array], *values: Value) -> Value:
        """Apply a function of arrays by the same rules as the model's own code."""
        return self.run(jax.make_jaxpr(function)(*(v.primal for v in values)), values)[0]


def _mixed(values: Sequence[Value]) -> frozenset[str]:
    """Names of the parameters that a result of these values mixes, if no input enters."""
    if any(v.data for v in values):
        return frozenset()
    return frozenset().union(*(v.parameters for v in values))


def _unmapped(linear: Callable[..., Array]) -> LinearMap:
    """A linear map with entries 0 and 1 is the same for every strength."""
    return lambda _: linear


def _times(slope: Array, stream: Stream) -> Array:
    return slope if stream.diagonal is None else slope * stream.diagonal.astype(slope.dtype)


def _add(_: Map) -> Callable[..., Array]:
    return lambda *x: sum(x[1:], x[0])


def _rearranged(eqn: jex.JaxprEqn, values: list[Value]) -> list[Value] | None:
    """Rearranged parameters and constants are still a weight."""
    weights = [v.weight for v in values if v.weight is not None]
    if not weights:
        return None
    keys = tuple(sorted({key for weight in weights for key in weight.keys}))

    def build(index: int, leaves: dict[str, Array]) -> Array:
        operands = (v.weight.build(leaves) if v.weight else v.primal for v in values)
        return bind(eqn, *operands)[index]

    outputs = bind(eqn, *(v.primal for v in values))
    return [Value(x, weight=Weight(keys, partial(build, i))) for i, x in enumerate(outputs)]
