"""How each kind of operation is recorded, and what cannot be treated."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.capacitance import network, trace
from ncap_jax.capacitance.forward_pass import ForwardPass
from ncap_jax.capacitance.line_graph import State
from ncap_jax.capacitance.streams import Node, Stream
from ncap_jax.errors import KernelError
from ncap_jax.ops.convolutions import convolution
from ncap_jax.types import Strength
from tests.support.nets import (
    Case,
    measured,
    network_values,
    perceptron,
    perceptron_case,
    with_middle,
)

# docs/numerics.md: one network written in two ways, order of summation only.
SAME = {"rtol": 1e-11, "atol": 1e-12}
# For networks written in two ways; the tests of the rules show what each strength maps.
STRENGTHS: tuple[Strength, ...] = ("signed", "absolute")
Middle = Callable[[Array], Array]


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# ---- the rule for each kind of operation ---------------------------------------------------------


def recorded(between: Middle) -> ForwardPass:
    """`between` on the output of one weight layer; its result is called the logits."""
    kernel, x = draw(3, 4), draw(2, 3, seed=1)
    return trace.record(lambda p, _, x: between(x @ p), kernel, None, x)


def layer_output() -> Array:
    return draw(2, 3, seed=1) @ draw(3, 4)


def stream_of(forward_pass: ForwardPass) -> Stream:
    stream = forward_pass.logits.stream
    assert stream is not None
    return stream


DIAGONALS: dict[str, Middle] = {
    "tanh": jnp.tanh,
    "a chain": lambda x: jnp.exp(-(x**2)) + 3,
    "several uses": lambda x: x * jnp.tanh(x) + 2 * x,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "a held array": lambda x: x * draw(2, 4, seed=3) + draw(1, 4, seed=4),
    "selected": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "in jit": jax.jit(lambda x: jnp.sin(x) * x),
    "rematerialised": jax.checkpoint(lambda x: jnp.sin(x) * x),
}


@pytest.mark.parametrize("name", DIAGONALS)
def test_elementwise_operations_are_one_exact_diagonal(x64, name):
    forward_pass = recorded(DIAGONALS[name])
    stream = stream_of(forward_pass)
    expected = jax.grad(lambda x: DIAGONALS[name](x).sum())(layer_output())
    np.testing.assert_allclose(stream.diagonal, expected, rtol=1e-12, atol=1e-15)
    assert stream.node.use is not None
    assert len(forward_pass.graph.nodes) == 1


@pytest.mark.parametrize(
    "shift",
    [lambda x: x + 2, lambda x: x - draw(2, 4), lambda x: x.astype(jnp.float32), lambda x: x],
)
def test_shifts_are_the_layer_itself(x64, shift):
    forward_pass = recorded(shift)
    stream = stream_of(forward_pass)
    assert stream.diagonal is None
    assert stream.dtype == forward_pass.logits.primal.dtype
    assert stream.node is forward_pass.graph.nodes[0]


LINEAR: dict[str, Middle] = {
    "transposed": lambda x: x.T,
    "sliced": lambda x: x[:, 1:3],
    "gathered": lambda x: x[:, jnp.array([2, 0, 0])],
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2))),
    "summed": lambda x: x.sum(axis=1, keepdims=True),
    "maximum": lambda x: x.max(axis=1, keepdims=True),
    "minimum": lambda x: x.min(axis=1, keepdims=True),
    "pooled": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 2), "VALID"),
    "max-pooled": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
    "broadcast": lambda x: jnp.broadcast_to(x[:1], (3, 4)),
    "a held matrix": lambda x: x @ draw(4, 3, seed=5),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_are_glue_with_their_own_jacobian(x64, name):
    """Held matrices are mapped by the strength, maps of zeros and ones are not."""
    stream = stream_of(recorded(LINEAR[name]))
    assert stream.diagonal is None
    tangent = draw(2, 4, seed=6)
    _, expected = jax.jvp(LINEAR[name], (layer_output(),), (tangent,))
    np.testing.assert_allclose(pushed(stream.node, lambda x: x, tangent), expected, rtol=1e-12)
    if name == "a held matrix":
        expected = tangent @ draw(4, 3, seed=5) ** 2
    np.testing.assert_allclose(pushed(stream.node, jnp.square, tangent), expected, rtol=1e-12)


def pushed(node: Node, f: Callable[[Array], Array], tangent: Array) -> Array:
    """The tangent of glue for a tangent of the one weight layer."""
    if node.use is not None:
        return tangent
    return node.push(f, [s.forward(f, pushed(s.node, f, tangent)) for s in node.inputs])


def test_streams_of_two_layers_meet_in_a_node(x64):
    """A skip: the sum of two streams, each with its own diagonal."""

    def apply(params: tuple[Array, Array], constants: None, x: Array) -> Array:
        del constants
        return jnp.tanh(x @ params[0]) + 2 * (x @ params[1])

    x, kernels = draw(2, 3), (draw(3, 4, seed=1), draw(3, 4, seed=2))
    stream = stream_of(trace.record(apply, kernels, None, x))
    one, other = stream.node.inputs
    np.testing.assert_allclose(one.diagonal, 1 - jnp.tanh(x @ kernels[0]) ** 2, rtol=1e-12)
    np.testing.assert_array_equal(other.diagonal, jnp.full((2, 4), 2.0))
    tangents = [draw(2, 4, seed=3), draw(2, 4, seed=4)]
    np.testing.assert_array_equal(stream.node.push(jnp.abs, tangents), tangents[0] + tangents[1])


def normalised(x: Array) -> Array:
    mean = x.mean(axis=1, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(axis=1, keepdims=True) + 1e-3)


STATISTICS: dict[str, tuple[Middle, Middle]] = {
    "layer norm": (
        normalised,
        lambda x: lax.rsqrt(jnp.var(x, axis=1, keepdims=True) + 1e-3) + 0 * x,
    ),
    "softmax": (
        lambda x: jnp.exp(x) / jnp.exp(x).sum(axis=1, keepdims=True),
        lambda x: jax.nn.softmax(x, axis=1),
    ),
    "root mean square": (
        lambda x: x * lax.rsqrt(jnp.square(x).mean(axis=1, keepdims=True)),
        lambda x: lax.rsqrt(jnp.square(x).mean(axis=1, keepdims=True)) + 0 * x,
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_that_normalise_their_source_are_held(x64, name):
    norm, expected = STATISTICS[name]
    stream = stream_of(recorded(norm))
    assert stream.node.use is not None
    np.testing.assert_allclose(stream.diagonal, expected(layer_output()), rtol=1e-12)


def test_products_of_two_streams_are_states(x64):
    """Attention: scores are held, values flow through the map."""
    forward_pass = recorded(lambda x: (x @ x.T) @ jnp.ones((2, 3)))
    assert forward_pass.logits.stream is None
    assert forward_pass.logits.active  # but the true gradient passes
    attended = recorded(lambda x: jax.nn.softmax(x @ x.T, axis=1) @ x)
    scores = jax.nn.softmax(layer_output() @ layer_output().T, axis=1)
    tangent = draw(2, 4, seed=6)
    found = pushed(stream_of(attended).node, jnp.square, tangent)
    np.testing.assert_allclose(found, scores**2 @ tangent, rtol=1e-12)


def test_stopped_gradients_end_a_stream():
    """Behind them any operation may stand; here a sort."""
    forward_pass = recorded(lambda x: jnp.sort(lax.stop_gradient(x), axis=1))
    assert forward_pass.logits.stream is None
    assert not forward_pass.logits.active
    assert forward_pass.logits.data


WEIGHTS: dict[str, tuple[Callable[[dict[str, Array]], Array], tuple[str, ...]]] = {
    "as it is": (lambda p: p["a"], ("a",)),
    "transposed": (lambda p: p["b"].T, ("b",)),
    "reshaped and cast": (lambda p: p["c"].reshape(3, 4).astype(jnp.float32), ("c",)),
    "of two": (lambda p: jnp.concatenate([p["a"][:1], p["b"].T[1:]]), ("a", "b")),
    "padded": (lambda p: jnp.pad(p["a"][:2], ((0, 1), (0, 0))), ("a",)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_rearranged_parameters_are_weights(name):
    build, keys = WEIGHTS[name]
    shapes = {"a": (3, 4), "b": (4, 3), "c": (12,)}
    params = {key: draw(*s).astype(jnp.float32) for key, s in shapes.items()}
    x = draw(2, 3).astype(jnp.float32)
    forward_pass = trace.record(lambda p, _, x: x @ build(p), params, None, x)
    (use,) = forward_pass.outputs
    assert use.weight.keys == keys
    np.testing.assert_array_equal(use.weight.build(params), build(params))
    np.testing.assert_array_equal(use.operand, build(params))


def test_names_of_parameters_are_their_paths():
    tree = {"layers": [{"kernel": 1, "bias": 2}], "head": (3,)}
    assert trace.parameter_names(tree) == ["head/0", "layers/0/bias", "layers/0/kernel"]


# ---- the same network, written in two ways -------------------------------------------------------


def rows(state: State, key: str, strength: str) -> list[Array]:
    return [degrees[key] for degrees in state.sums[strength][:2]]


def test_scanned_and_rematerialised_blocks_are_loops(x64):
    stack, ends = draw(3, 5, 5), (draw(4, 5, seed=1), draw(5, 3, seed=2))
    inputs, labels = draw(6, 4, seed=3), jnp.arange(6) % 3

    def block(x: Array, kernel: Array) -> tuple[Array, None]:
        return x + jnp.tanh(x @ kernel), None

    def scanned(params: Any, constants: None, x: Array) -> Array:
        x, _ = lax.scan(jax.checkpoint(block), x @ params["ends"][0], params["stack"])
        return x @ params["ends"][1]

    def looped(params: Any, constants: None, x: Array) -> Array:
        x = x @ params["ends"][0]
        for kernel in params["stack"]:
            x, _ = block(x, kernel)
        return x @ params["ends"][1]

    measure = partial(measured, every_edge=True, strengths=STRENGTHS)
    one = measure(scanned, {"ends": ends, "stack": stack}, None, inputs, labels)
    other = measure(looped, {"ends": ends, "stack": list(stack)}, None, inputs, labels)
    for strength in STRENGTHS:
        layers = zip(*(rows(other, f"stack/{i}", strength) for i in range(3)))
        for found, expected in zip(rows(one, "stack", strength), layers, strict=True):
            np.testing.assert_allclose(found, np.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_with_constants_and_outputs_is_a_loop(x64, reverse):
    """All kinds of operands at once: constants, two carries, slices; and stacked outputs."""
    params = {"first": draw(4, 5), "kernel": draw(5, 5, seed=1), "last": draw(10, 3, seed=2)}
    shifts, inputs, labels = draw(3, 5, seed=3), draw(6, 4, seed=4), jnp.arange(6) % 3

    def step(kernel: Array, carry: tuple[Array, int], shift: Array) -> tuple[Any, Array]:
        x, count = carry
        y = jnp.tanh(x @ kernel + shift[None])
        return (y, count + 1), x

    def net(loop: Callable[..., Any]) -> network.Apply:
        def apply(params: Any, constants: None, x: Array) -> Array:
            (x, _), seen = loop(partial(step, params["kernel"]), (x @ params["first"], 0), shifts)
            return jnp.concatenate([x, seen[0]], axis=1) @ params["last"]

        return apply

    def looped(body: Callable[..., Any], carry: Any, slices: Array) -> tuple[Any, Array]:
        outputs = []
        for row in slices[::-1] if reverse else slices:
            carry, output = body(carry, row)
            outputs.append(output)
        return carry, jnp.stack(outputs[::-1] if reverse else outputs)

    scanned = partial(lax.scan, reverse=reverse)
    one, other = (
        measured(net(loop), params, None, inputs, labels, every_edge=True, strengths=("absolute",))
        for loop in (scanned, looped)
    )
    for name in params:
        for a, b in zip(rows(one, name, "absolute"), rows(other, name, "absolute"), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
            assert np.abs(b).max() > 0 or name in ("first", "last")


REARRANGED: dict[str, tuple[Middle, Middle]] = {
    "stack": (
        lambda x: jnp.stack([x, x[:, ::-1]], axis=1).reshape(len(x), -1),
        lambda x: jnp.concatenate([x, x[:, ::-1]], axis=1),
    ),
    "unstack": (
        lambda x: sum(jnp.unstack(x.reshape(-1, 2, 2), axis=1)),
        lambda x: x[:, :2] + x[:, 2:],
    ),
    "tile": (lambda x: jnp.tile(x, (1, 2)), lambda x: jnp.concatenate([x, x], axis=1)),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_rearrangements_between_layers_are_what_they_are_made_of(x64, name):
    one, other = REARRANGED[name]
    width = jax.eval_shape(one, jax.ShapeDtypeStruct((1, 4), float)).shape[1]
    shapes = ((4, 5), (5, 4), (width, 5), (5, 3))
    params = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    inputs, labels = draw(6, 4, seed=4), jnp.arange(6) % 3

    def net(between: Middle) -> network.Apply:
        def apply(params: Any, constants: None, x: Array) -> Array:
            x = between(jnp.tanh(jnp.tanh(x @ params[0]) @ params[1]))
            return jnp.tanh(x @ params[2]) @ params[3]

        return apply

    data = params, None, inputs, labels
    found, expected = (network_values(net(f), *data, strengths=STRENGTHS) for f in (one, other))
    for strength in STRENGTHS:
        np.testing.assert_allclose(found[strength].value, expected[strength].value, rtol=1e-12)
        assert abs(expected[strength].value) > 1e-6


def shuffled(x: Array) -> Array:
    """A permutation of six units, in every way that JAX knows: flip, split, take, slice, roll."""
    x = jnp.flip(x, axis=1)
    x, y = jnp.split(x, 2, axis=1)
    x = jnp.concatenate([y, x], axis=1)[:, jnp.array([2, 0, 1, 5, 4, 3])]
    x = lax.dynamic_slice(jnp.pad(x, ((0, 0), (1, 1))), (0, 1), x.shape)
    return jnp.roll(x.T, 1, axis=0).T[:, :, None].squeeze(2)


def assert_same_values(one: network.Apply, other: network.Apply, case: Case) -> None:
    found, expected = (network_values(f, *case, strengths=STRENGTHS) for f in (one, other))
    for strength, result in found.items():
        assert abs(float(result.value)) > 0
        np.testing.assert_allclose(result.value, expected[strength].value, **SAME)


def test_rearrangements_only_rename_units(x64):
    """Permuted units are those of a net whose next kernel has permuted rows."""
    order = np.asarray(jax.jit(shuffled)(jnp.arange(6.0)[None])[0], int)

    def renamed(x: Array, kernel: Array) -> Array:
        return shuffled(jax.nn.relu(x @ kernel))

    def permuted(x: Array, kernel: Array) -> Array:
        return jax.nn.relu(x @ kernel)[:, order]

    assert_same_values(with_middle(renamed), with_middle(permuted), perceptron_case())


@jax.custom_vjp
def straight_through(x: Array) -> Array:
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def test_custom_derivatives_are_obeyed(x64):
    """A rounding that passes gradients straight through is an identity with other states."""
    case = perceptron_case()
    rounded = with_middle(lambda x, c: straight_through(x) @ c)
    held = with_middle(lambda x, c: (x + lax.stop_gradient(jnp.round(x) - x)) @ c)
    assert_same_values(rounded, held, case._replace(inputs=10 * case.inputs))


def test_held_operations_may_be_anything(x64):
    """What no stream passes is evaluated as it stands: here a sort of a gate's copy."""

    def gated(x: Array, c: Array) -> Array:
        gate = lax.stop_gradient(jnp.sort(lax.stop_gradient(x), axis=1))
        return (x * gate) @ c

    values = network_values(with_middle(gated), *perceptron_case(), strengths=("absolute",))
    assert values["absolute"].status == "ok"


def test_a_layer_used_twice_has_one_set_of_edges(x64):
    """Its degrees are the sums over its uses."""
    params = {"first": draw(4, 5), "middle": draw(5, 5, seed=1), "last": draw(5, 3, seed=2)}
    inputs, labels = draw(6, 4, seed=3), jnp.arange(6) % 3

    def net(params: Any, constants: None, x: Array) -> Array:
        x = jax.nn.relu(x @ params["first"])
        for kernel in params["middle"]:
            x = jax.nn.relu(x @ kernel)
        return x @ params["last"]

    def tied(params: Any, constants: None, x: Array) -> Array:
        return net({**params, "middle": [params["middle"]] * 3}, constants, x)

    measure = partial(measured, every_edge=True, strengths=("absolute",))
    apart = measure(net, {**params, "middle": [params["middle"]] * 3}, None, inputs, labels)
    joined = measure(tied, params, None, inputs, labels)
    uses = zip(*(rows(apart, f"middle/{i}", "absolute") for i in range(3)))
    for found, parts in zip(rows(joined, "middle", "absolute"), uses, strict=True):
        np.testing.assert_allclose(found, sum(parts), rtol=1e-12)


def test_depthwise_layers_are_convolutions(x64):
    """Written with either primitive, a network has the same degrees and sums."""
    params = {
        "first": draw(2, 4),
        "depthwise": draw(3, 3, 1, 4, seed=1),
        "pointwise": draw(1, 1, 4, 5, seed=2),
        "second": draw(3, 3, 1, 5, seed=3),
        "dense": draw(5, 3, seed=4),
    }
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def apply(convolution: Any, params: Any, constants: None, x: Array) -> Array:
        x = jnp.tanh(jnp.tensordot(x, params["first"], 1))
        x = convolution(x, params["depthwise"], (2, 2), feature_group_count=4, **options)
        x = jnp.tanh(jnp.tensordot(jnp.tanh(x), params["pointwise"][0, 0], 1))
        x = convolution(x, params["second"], (1, 1), feature_group_count=5, **options)
        return jnp.tensordot(jnp.tanh(x).mean((1, 2)), params["dense"], 1)

    x, labels = draw(3, 6, 6, 2, seed=5), jnp.arange(3) % 3
    found, expected = (
        measured(
            partial(apply, convolution),
            params,
            None,
            x,
            labels,
            strengths=("absolute",),
            every_edge=True,
        )
        for function in (convolution, lax.conv_general_dilated)
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# ---- what cannot be treated ----------------------------------------------------------------------

HERE = rf"\({re.escape(__file__)}:\d+\)"
BETWEEN = (
    "lies between weight layers and is neither elementwise nor a rearrangement, a sum, a pooling "
    "or a product"
)
STOP = "Measure a probe on the model's features instead, or stop its gradient"
LOOP = "Write the layers out, or loop over them with scan"
LOGITS = "Return only the logits, of shape (batch, classes)"


def standardised(x: Array, kernel: Array) -> Array:
    return x @ (kernel - kernel.mean(axis=0, keepdims=True))


def adapted(x: Array, kernel: Array) -> Array:
    return x @ (kernel * 2)


def halved(x: Array, kernel: Array) -> Array:
    return lax.while_loop(lambda v: v.sum() > 1e9, lambda v: v / 2, x @ kernel)


def branched(x: Array, kernel: Array) -> Array:
    return lax.cond(x.sum() > 0, lambda v: v @ kernel, lambda v: -(v @ kernel), x)


# what is wrong -> (model, pattern of the cause, remedy)
REFUSED: dict[str, tuple[network.Apply, str, str]] = {
    "sort": (
        with_middle(lambda x, c: jnp.sort(x, axis=1) @ c),
        rf"'sort' in <lambda> {HERE} {BETWEEN}",
        STOP,
    ),
    "product": (
        with_middle(lambda x, c: jnp.cumprod(x, axis=1) @ c),
        rf"'cumprod' in <lambda> {HERE} {BETWEEN}",
        STOP,
    ),
    "standardised weight": (
        with_middle(standardised),
        rf"a weight that is computed from the parameters 2/0 meets the data in standardised {HERE}",
        "Make the computed weight a parameter itself: only parameters that are used unchanged or "
        "rearranged have edges",
    ),
    "scaled weight": (
        with_middle(adapted),
        rf"a weight that is computed from the parameters 2/0 meets the data in adapted {HERE}",
        "Make the computed weight a parameter itself: only parameters that are used unchanged or "
        "rearranged have edges",
    ),
    "while": (
        with_middle(halved),
        rf"'while' in halved {HERE} operates on weights or on what depends on them",
        LOOP,
    ),
    "branch": (
        with_middle(branched),
        rf"'cond' in branched {HERE} operates on weights or on what depends on them",
        LOOP,
    ),
    "two results": (
        lambda p, _, x: (x, x),
        r"the model returns arrays of shapes \[\(9, 4\), \(9, 4\)\]",
        LOGITS,
    ),
    "a feature map": (
        lambda p, _, x: perceptron(p, 0.0, x)[None],
        r"the model returns arrays of shapes \[\(1, 9, 3\)\]",
        LOGITS,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_treated_is_named(name):
    apply, cause, remedy = REFUSED[name]
    params, _, inputs, _ = perceptron_case(dtype=np.float32)
    with pytest.raises(KernelError) as error:
        trace.record(apply, params, None, inputs)
    assert re.fullmatch(cause, error.value.cause.replace("with_middle.<locals>.", ""))
    assert error.value.remedy == remedy


def kernel_on_the_left(params: Array, constants: None, x: Array) -> Array:
    """A convolution of the parameter with the data."""
    return lax.conv(params, x, (1, 1), "VALID")[0, :, 0]


def grouped_batches(params: Array, constants: None, x: Array) -> Array:
    """A convolution whose groups run over samples."""
    y = lax.conv_general_dilated(x, params, (1, 1), "VALID", batch_group_count=2)
    return y[:, :, 0, 0]


@pytest.mark.parametrize(
    ("apply", "shapes"),
    [
        (kernel_on_the_left, ((1, 2, 4, 4), (3, 2, 4, 3))),
        (grouped_batches, ((2, 3, 2, 2), (4, 3, 2, 2))),
    ],
)
def test_convolutions_that_are_not_layers_are_refused(apply, shapes):
    params, x = (draw(*shape).astype(jnp.float32) for shape in shapes)
    with pytest.raises(KernelError) as error:
        trace.record(lambda p, c, x: apply(p["kernel"], c, x), {"kernel": params}, None, x)
    pattern = rf"the convolution in {apply.__name__} {HERE} does not use kernel as a layer does"
    assert re.fullmatch(pattern, error.value.cause)
    assert error.value.remedy == "Make the parameter the right operand, with batch_group_count=1"
