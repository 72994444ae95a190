"""Whole networks against a brute-force dense P."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ncap_jax.capacitance import beta_eff, network, one_step
from ncap_jax.capacitance.reference import beta_eff as dense_beta_eff
from ncap_jax.errors import KernelError
from tests.capacitance import brute_force
from tests.capacitance.nets import random_net

# docs/numerics.md: float64 against float64, Jacobians of a whole network.
EXACT = 1e-10


def dense(w, u):
    return jnp.tensordot(u, w, axes=(u.ndim - 1, 0))


def conv(stride=1, groups=1, dilation=1, padding="SAME"):
    def lin(w, u):
        return lax.conv_general_dilated(
            u,
            w,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return lin


def scaled(x, seed):
    """A folded batch norm: scales of both signs, and offsets."""
    rng = np.random.default_rng(seed)
    shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
    return x * jnp.asarray(rng.normal(size=shape)) + jnp.asarray(rng.normal(size=shape))


def layer_norm(x, hold):
    mean = hold(x.mean(axis=-1, keepdims=True))
    variance = hold(jnp.square(x).mean(axis=-1, keepdims=True) - mean**2)
    # With equal gains the signed value of a pre-norm transformer is 0: the loss does not change
    # when all channels of the residual stream shift together.
    return scaled((x - mean) * lax.rsqrt(variance + 1e-3), 8)


def mean_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mlp(layer, hold, x):
    for name in "abcd":
        x = jax.nn.relu(scaled(layer(name, x), ord(name)))
    return layer("e", x) + 0.1


def two_convolutions_and_a_skip(layer, hold, x):
    x = jax.nn.relu(layer("a", x) + 0.1)
    x = jax.nn.relu(scaled(layer("b", x), 0) + x)
    x = max_pool(x).reshape(x.shape[0], -1)
    x = jax.nn.relu(layer("c", x) + 0.2)
    x = jax.nn.gelu(layer("d", x))
    return layer("e", x)


def depthwise_separable(layer, hold, x):
    x = jax.nn.relu(scaled(layer("a", x), 1))
    x = jax.nn.relu6(scaled(layer("b", x), 2))
    x = jax.nn.silu(scaled(layer("c", x), 3))
    return layer("d", x.mean(axis=(1, 2)))


def dense_concatenation(layer, hold, x):
    x = layer("a", x)
    for name in "bc":
        y = layer(name, jax.nn.relu(scaled(x, ord(name))))
        x = jnp.concatenate([x, y], axis=-1)
    x = mean_pool(layer("d", jax.nn.relu(x)))
    return layer("e", jax.nn.relu(x).reshape(x.shape[0], -1))


def strided_residual(layer, hold, x):
    x = jax.nn.relu(layer("a", x))
    y = jax.nn.relu(scaled(layer("b", x), 5))
    y = scaled(layer("c", y), 6)
    x = jax.nn.relu(y + scaled(layer("d", x), 7))
    x = jax.nn.tanh(layer("e", jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)))))
    return layer("f", x.mean(axis=(1, 2)))


def squeeze_and_excite(layer, hold, x):
    x = jax.nn.relu(layer("a", x))
    gate = jax.nn.sigmoid(layer("c", jax.nn.relu(layer("b", x.mean(axis=(1, 2))))))
    x = x * gate[:, None, None, :]
    x = jax.nn.relu(layer("d", x)).max(axis=(1, 2))
    return layer("e", x)


def other_norms(layer, hold, x):
    """Root mean square, and a softmax over units: statistics of their own source, held."""
    x = layer("a", x)
    x = layer("b", x * lax.rsqrt(hold(jnp.square(x).mean(axis=1, keepdims=True)) + 1e-3))
    x = jnp.exp(x - hold(x.max(axis=1, keepdims=True)))
    x = layer("c", x / hold(x.sum(axis=1, keepdims=True)))
    return layer("e", jax.nn.tanh(layer("d", x)))


def two_head_attention(layer, hold, x):
    x = layer("in", x) + 0.1 * jnp.arange(x.shape[1], dtype=x.dtype)[None, :, None]
    y = layer_norm(x, hold)
    query, key, value = (layer(name, y) for name in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2.0)
    y = jnp.einsum("bhqk,bkhd->bqhd", hold(jax.nn.softmax(scores)), value)
    x = x + layer("out", y)
    x = x + layer("down", jax.nn.gelu(layer("up", layer_norm(x, hold))))
    return layer("head", layer_norm(x, hold).mean(axis=1))


def heads(w, u):
    return jnp.einsum("btc,chd->bthd", u, w)


def merged(w, u):
    return jnp.einsum("bthd,hdc->btc", u, w)


# name -> (net, layers with the shape of their weight, shape of a sample)
NETS = {
    "mlp": (
        mlp,
        {n: (dense, s) for n, s in zip("abcde", [(3, 4), (4, 3), (3, 5), (5, 3), (3, 4)])},
        (3,),
    ),
    "other_norms": (
        other_norms,
        {n: (dense, s) for n, s in zip("abcde", [(3, 4), (4, 3), (3, 5), (5, 3), (3, 3)])},
        (3,),
    ),
    "two_convolutions_and_a_skip": (
        two_convolutions_and_a_skip,
        {
            "a": (conv(), (3, 3, 2, 2)),
            "b": (conv(), (3, 3, 2, 2)),
            "c": (dense, (8, 5)),
            "d": (dense, (5, 4)),
            "e": (dense, (4, 3)),
        },
        (4, 4, 2),
    ),
    "depthwise_separable": (
        depthwise_separable,
        {
            "a": (conv(), (2, 2, 2, 3)),
            "b": (conv(stride=2, groups=3), (3, 3, 1, 6)),
            "c": (conv(), (1, 1, 6, 4)),
            "d": (dense, (4, 3)),
        },
        (5, 4, 2),
    ),
    "dense_concatenation": (
        dense_concatenation,
        {
            "a": (conv(), (1, 2, 2, 3)),
            "b": (conv(dilation=2), (3, 3, 3, 2)),
            "c": (conv(), (3, 3, 5, 2)),
            "d": (conv(), (1, 1, 7, 3)),
            "e": (dense, (12, 3)),
        },
        (4, 4, 2),
    ),
    "strided_residual": (
        strided_residual,
        {
            "a": (conv(), (3, 3, 2, 2)),
            "b": (conv(stride=2), (3, 3, 2, 3)),
            "c": (conv(), (3, 3, 3, 3)),
            "d": (conv(stride=2), (1, 1, 2, 3)),
            "e": (conv(padding="VALID"), (2, 2, 3, 4)),
            "f": (dense, (4, 3)),
        },
        (5, 5, 2),
    ),
    "squeeze_and_excite": (
        squeeze_and_excite,
        {
            "a": (conv(), (3, 3, 2, 4)),
            "b": (dense, (4, 2)),
            "c": (dense, (2, 4)),
            "d": (conv(groups=2), (3, 3, 2, 4)),
            "e": (dense, (4, 3)),
        },
        (4, 4, 2),
    ),
    "two_head_attention": (
        two_head_attention,
        {
            "in": (dense, (3, 4)),
            "query": (heads, (4, 2, 2)),
            "key": (heads, (4, 2, 2)),
            "value": (heads, (4, 2, 2)),
            "out": (merged, (2, 2, 4)),
            "up": (dense, (4, 5)),
            "down": (dense, (5, 4)),
            "head": (dense, (4, 3)),
        },
        (3, 3),
    ),
}


def example(name, batch=3, seed=0):
    net, layers, shape = NETS[name]
    rng = np.random.default_rng(seed)
    lins = {key: lin for key, (lin, _) in layers.items()}
    weights = {key: jnp.asarray(rng.normal(size=s)) for key, (_, s) in layers.items()}
    inputs = jnp.asarray(rng.normal(size=(batch, *shape)))
    labels = jnp.asarray(rng.integers(0, 3, batch), jnp.int32)
    return net, lins, weights, inputs, labels


@pytest.mark.parametrize("name", NETS)
def test_against_brute_force(x64, name):
    net, lins, weights, inputs, labels = example(name)
    dense_p = brute_force.dense_adjacency(net, lins, weights, inputs, labels)
    apply = brute_force.apply(net, lins)

    @partial(jax.jit, static_argnames="every_edge")
    def measure(weights, inputs, labels, every_edge):
        return network.measure(apply, weights, None, inputs, labels, every_edge=every_edge)

    every = measure(weights, inputs, labels, every_edge=True)
    results = beta_eff.from_state(measure(weights, inputs, labels, every_edge=False))
    for strength, p in dense_p.items():
        sums, scale, start = every.sums[strength], np.abs(p).sum(), 0
        assert scale > 0
        for key in lins:
            edges = slice(start, start + weights[key].size)
            start = edges.stop
            for found, expected in ((sums.delta_in, p.sum(1)), (sums.delta_out, p.sum(0))):
                mean = np.asarray(found[key]).ravel() / len(labels)
                np.testing.assert_allclose(mean, expected[edges], rtol=0, atol=EXACT * scale)
        np.testing.assert_allclose(sums.total / len(labels), p.sum(), rtol=0, atol=EXACT * scale)
        result = results[strength]
        assert result.status == "ok"
        tolerance = EXACT * float(result.condition)
        np.testing.assert_allclose(result.value, dense_beta_eff(p), rtol=tolerance)


WIDTHS = (4, 5, 4, 6, 3)


def perceptron(params, constants, x):
    """A plain MLP; the constant is an offset of its logits."""
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None, :])
    kernel, bias = params[-1]
    return x @ kernel + bias[None, :] + constants


def mlp_case(seed=0, batch=9, dtype=np.float64):
    data = random_net(seed, WIDTHS, batch)
    params = [
        (jnp.asarray(k, dtype), jnp.asarray(b, dtype)) for k, b in zip(data.kernels, data.biases)
    ]
    return params, jnp.zeros((1, 3), dtype), jnp.asarray(data.inputs, dtype), data.labels


@partial(jax.jit, static_argnames=("apply", "strengths", "every_edge"))
def measured(apply, params, constants, inputs, labels, **options):
    """Jitted: evaluated one by one, the operations' compilations would take most of the time."""
    return network.measure(apply, params, constants, inputs, labels, **options)


def test_of_an_mlp_is_the_probe_kernel(x64):
    params, offset, inputs, labels = mlp_case()
    state = measured(perceptron, params, offset, inputs, labels)
    # Both degrees of the last hidden layer's kernel are formed, except where one is exactly 0.
    assert sorted(state.sums["signed"].delta_in) == ["1/0"]
    assert sorted(state.sums["absolute"].delta_in) == ["1/0", "2/0"]
    kernels, biases = zip(*params)
    for strength, result in beta_eff.from_state(state).items():
        expected = beta_eff.mlp_beta_eff(kernels, biases, inputs, labels, strength)
        np.testing.assert_allclose(result.value, expected.value, rtol=1e-11)


def test_any_batching_gives_the_same(x64):
    params, offset, inputs, labels = mlp_case()
    whole = beta_eff.from_state(measured(perceptron, params, offset, inputs, labels))
    state = network.init(perceptron, params, offset, inputs[:4])
    for start in range(0, 9, 4):
        mask = jnp.arange(4) < 9 - start
        rows = np.minimum(start + np.arange(4), 8)
        x = jnp.where(mask[:, None], inputs[rows], jnp.nan)
        before = state
        state = network.update(state, perceptron, params, offset, x, labels[rows], mask)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))  # donated
    assert int(state.samples) == 9
    for strength, result in beta_eff.from_state(state).items():
        np.testing.assert_allclose(result.value, whole[strength].value, rtol=1e-12)


def test_vmap_over_models_is_a_loop(x64):
    cases = [mlp_case(seed)[0] for seed in range(3)]
    _, offset, inputs, labels = mlp_case()

    @jax.jit
    def one(params):
        return beta_eff.from_state(network.measure(perceptron, params, offset, inputs, labels))

    batched = jax.jit(jax.vmap(one))(jax.tree.map(lambda *x: jnp.stack(x), *cases))
    for index, params in enumerate(cases):
        for strength, looped in one(params).items():
            np.testing.assert_allclose(batched[strength].value[index], looped.value, rtol=1e-11)


def test_scanned_and_rematerialised_blocks_are_loops(x64):
    rng = np.random.default_rng(0)
    stack = jnp.asarray(rng.normal(size=(3, 5, 5)))
    ends = jnp.asarray(rng.normal(size=(4, 5))), jnp.asarray(rng.normal(size=(5, 3)))
    inputs, labels = jnp.asarray(rng.normal(size=(6, 4))), jnp.arange(6) % 3

    def block(x, kernel):
        return x + jnp.tanh(x @ kernel), None

    def scanned(params, constants, x):
        x, _ = lax.scan(jax.checkpoint(block), x @ params["ends"][0], params["stack"])
        return x @ params["ends"][1]

    def looped(params, constants, x):
        x = x @ params["ends"][0]
        for kernel in params["stack"]:
            x, _ = block(x, kernel)
        return x @ params["ends"][1]

    measure = partial(measured, every_edge=True)
    first = measure(scanned, {"ends": ends, "stack": stack}, None, inputs, labels)
    second = measure(looped, {"ends": ends, "stack": list(stack)}, None, inputs, labels)
    for strength in network.STRENGTHS:
        one, other = first.sums[strength], second.sums[strength]
        for direction in ("delta_in", "delta_out"):
            rows = [getattr(other, direction)[f"stack/{i}"] for i in range(3)]
            np.testing.assert_allclose(
                getattr(one, direction)["stack"], np.stack(rows), rtol=1e-12, atol=1e-12
            )


REARRANGED = {
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
    rng = np.random.default_rng(3)
    width = one(jnp.zeros((1, 4))).shape[1]
    shapes = ((4, 5), (5, 4), (width, 5), (5, 3))
    params = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    inputs, labels = jnp.asarray(rng.normal(size=(6, 4))), jnp.arange(6) % 3

    def net(between):
        def apply(params, constants, x):
            x = between(jnp.tanh(jnp.tanh(x @ params[0]) @ params[1]))
            return jnp.tanh(x @ params[2]) @ params[3]

        return apply

    states = (measured(net(f), params, None, inputs, labels) for f in (one, other))
    a, b = (beta_eff.from_state(state) for state in states)
    for strength in network.STRENGTHS:
        np.testing.assert_allclose(a[strength].value, b[strength].value, rtol=1e-12)
        assert abs(b[strength].value) > 1e-6


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_with_constants_and_outputs_is_a_loop(x64, reverse):
    """All kinds of operands at once: constants, two carries, slices; and stacked outputs."""
    rng = np.random.default_rng(2)
    first, kernel, last = (jnp.asarray(rng.normal(size=s)) for s in ((4, 5), (5, 5), (10, 3)))
    params = {"first": first, "kernel": kernel, "last": last}
    shifts = jnp.asarray(rng.normal(size=(3, 5)))
    inputs, labels = jnp.asarray(rng.normal(size=(6, 4))), jnp.arange(6) % 3

    def step(kernel, carry, shift):
        x, count = carry
        y = jnp.tanh(x @ kernel + shift[None])
        return (y, count + 1), x

    def net(loop):
        def apply(params, constants, x):
            (x, _), seen = loop(partial(step, params["kernel"]), (x @ params["first"], 0), shifts)
            return jnp.concatenate([x, seen[1]], axis=1) @ params["last"]

        return apply

    def looped(body, carry, slices):
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
    for direction in ("delta_in", "delta_out"):
        for name in params:
            a, b = (getattr(m.sums["absolute"], direction)[name] for m in (one, other))
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
            assert np.abs(b).max() > 0 or name in ("first", "last")


def test_a_layer_used_twice_has_one_set_of_edges(x64):
    """Its degrees are the sums over its uses."""
    params, _, inputs, labels = mlp_case()
    (first, _), _, _, (last, _) = params
    rng = np.random.default_rng(1)
    middle = jnp.asarray(rng.normal(size=(5, 5)))
    last = jnp.asarray(rng.normal(size=(5, 3)))

    def net(params, constants, x):
        x = jax.nn.relu(x @ params["first"])
        for kernel in params["middle"]:
            x = jax.nn.relu(x @ kernel)
        return x @ params["last"]

    def tied(params, constants, x):
        return net({**params, "middle": [params["middle"]] * 3}, constants, x)

    ends = {"first": first, "last": last}
    measure = partial(measured, every_edge=True, strengths=("absolute",))
    apart = measure(net, {**ends, "middle": [middle] * 3}, None, inputs, labels).sums["absolute"]
    joined = measure(tied, {**ends, "middle": middle}, None, inputs, labels).sums["absolute"]
    for one, many in ((joined.delta_in, apart.delta_in), (joined.delta_out, apart.delta_out)):
        total = sum(many[f"middle/{i}"] for i in range(3))
        np.testing.assert_allclose(one["middle"], total, rtol=1e-12)


def test_the_true_gradient_passes_held_states(x64):
    """G behind a soft-max attention map and a layer norm is autodiff's, not the held one."""
    net, lins, weights, inputs, labels = example("two_head_attention")
    apply = brute_force.apply(net, lins)

    @jax.jit
    def gradients(weights):
        trace, logits = network._forward(apply, weights, None, inputs)
        g = jax.nn.softmax(logits.primal) - jax.nn.one_hot(labels, 3, dtype=inputs.dtype)
        found = one_step.cotangents(trace, logits, g)
        return {use.weight.keys[0]: use.weight_gradient(use.u, h) for use, h in found.items()}

    def loss(weights):
        log_p = jax.nn.log_softmax(apply(weights, None, inputs))
        return -jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    found, expected = gradients(weights), jax.jit(jax.grad(loss))(weights)
    assert set(found) == set(weights)
    for key, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-10, atol=1e-12)


def test_float32_against_float64():
    """The tolerance of docs/numerics.md, times the condition number."""
    results = {}
    for x64 in (False, True):
        with jax.enable_x64(x64):
            dtype = np.float64 if x64 else np.float32
            params, offset, inputs, labels = mlp_case(3, 64, dtype)
            state = measured(perceptron, params, offset, inputs, labels)
            results[x64] = beta_eff.from_state(state)
    for strength, double in results[True].items():
        single = results[False][strength]
        assert single.value.dtype == jnp.float32
        error = abs(float(single.value) / float(double.value) - 1)
        assert error < 1e-5 * max(float(double.condition), 1)


def with_middle(middle):
    """An MLP with something between its second and third layer."""

    def apply(params, constants, x):
        (a, _), (b, _), (c, _), (d, _) = params
        x = middle(jax.nn.relu(jax.nn.relu(x @ a) @ b), c)
        return jax.nn.relu(x) @ d

    return apply


def standardised(x, kernel):
    return x @ (kernel - kernel.mean(axis=0, keepdims=True))


REFUSED = {
    "sort": (with_middle(lambda x, c: jnp.sort(x, axis=1) @ c), "'sort' in .*network_test.py"),
    "product": (with_middle(lambda x, c: jnp.cumprod(x, axis=1) @ c), "cumprod"),
    "computed weight": (with_middle(standardised), "made of 2/0 is computed .*standardised"),
    "while": (
        with_middle(lambda x, c: lax.while_loop(lambda v: v.sum() > 1e9, lambda v: v / 2, x @ c)),
        "'while' in",
    ),
    "branch": (
        with_middle(lambda x, c: lax.cond(x.sum() > 0, lambda v: v @ c, lambda v: -(v @ c), x)),
        "'cond' in",
    ),
    "three layers": (lambda p, _, x: x @ p[0][0] @ p[1][0] @ p[2][0], "3 weight layers .* 2/0"),
    "no layer": (lambda p, _, x: x * p[0][1][None, :4], "no weight layer"),
    "two results": (lambda p, _, x: (x, x), "Return only the logits"),
    "a feature map": (lambda p, _, x: perceptron(p, 0.0, x)[None], "Return only the logits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_treated_is_named(name):
    apply, words = REFUSED[name]
    params, _, inputs, labels = mlp_case(dtype=np.float32)
    with pytest.raises(KernelError, match=words) as caught:
        network.measure(apply, params, None, inputs, labels)
    assert caught.value.remedy


def test_held_operations_may_be_anything(x64):
    """What no stream passes is evaluated as it stands: here a sort of a gate's copy."""
    params, _, inputs, labels = mlp_case()

    def gated(x, c):
        gate = lax.stop_gradient(jnp.sort(lax.stop_gradient(x), axis=1))
        return (x * gate) @ c

    state = measured(with_middle(gated), params, None, inputs, labels)
    assert beta_eff.from_state(state)["absolute"].status == "ok"


BAD = {
    "NaN weights": (lambda p, x, y: ([(p[0][0] * np.nan, p[0][1]), *p[1:]], x, y), "0/0 has 20"),
    "empty batch": (lambda p, x, y: (p, x[:0], y[:0]), "empty"),
    "integer inputs": (lambda p, x, y: (p, x.astype(jnp.int32), y), "floating point"),
    "labels out of range": (lambda p, x, y: (p, x, y + 1), "Renumber"),
    "labels missing": (lambda p, x, y: (p, x, y[1:]), "one label a sample"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    change, words = BAD[name]
    params, offset, inputs, labels = mlp_case(dtype=np.float32)
    params, inputs, labels = change(params, inputs, labels)
    with pytest.raises(KernelError, match=words):
        network.check(perceptron, params, offset, inputs, labels)


def test_nothing_widens_to_float64(x64):
    """float32 arguments stay float32 where float64 is enabled."""
    params, offset, inputs, labels = mlp_case(dtype=np.float32)
    kernels, biases = zip(*params)
    gammas, betas = biases[:-1], biases[:-1]
    whole = partial(network.measure, perceptron)
    probe = beta_eff.probe_beta_eff
    for function, arguments in (
        (whole, (params, offset, inputs, labels)),
        (probe, (kernels, biases, gammas, betas, inputs, labels)),
    ):
        program = str(jax.make_jaxpr(function)(*arguments))
        assert "f32[" in program
        assert not re.search(r"f64\[\d", program)  # Python's own scalars are cast and folded


def shuffled(x):
    """A permutation of six units, in every way that JAX knows: flip, split, take, slice, roll."""
    x = jnp.flip(x, axis=1)
    x, y = jnp.split(x, 2, axis=1)
    x = jnp.concatenate([y, x], axis=1)[:, jnp.array([2, 0, 1, 5, 4, 3])]
    x = lax.dynamic_slice(jnp.pad(x, ((0, 0), (1, 1))), (0, 1), x.shape)
    return jnp.roll(x.T, 1, axis=0).T[:, :, None].squeeze(2)


def test_rearrangements_only_rename_units(x64):
    """Permuted units are those of a net whose next kernel has permuted rows."""
    params, _, inputs, labels = mlp_case()
    order = np.asarray(shuffled(jnp.arange(6.0)[None])[0], int)
    (a, _), (b, _), (c, _), (d, _) = params

    def plain(params, constants, x):
        for kernel in params[:-1]:
            x = jax.nn.relu(x @ kernel)
        return x @ params[-1]

    def permuted(params, constants, x):
        x = jax.nn.relu(jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1]) @ params[2])
        return shuffled(x) @ params[3]

    last = jnp.zeros_like(d).at[:].set(d[order])
    one = beta_eff.from_state(measured(permuted, (a, b, c, last), None, inputs, labels))
    other = beta_eff.from_state(measured(plain, (a, b, c, d), None, inputs, labels))
    for strength, result in one.items():
        np.testing.assert_allclose(result.value, other[strength].value, rtol=1e-11)


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def test_custom_derivatives_are_obeyed(x64):
    """A rounding that passes gradients straight through is an identity with other states."""
    params, _, inputs, labels = mlp_case()
    inputs, labels = 10 * inputs, jnp.asarray(labels)
    rounded = with_middle(lambda x, c: straight_through(x) @ c)
    held = with_middle(lambda x, c: (x + lax.stop_gradient(jnp.round(x) - x)) @ c)
    one = beta_eff.from_state(measured(rounded, params, None, inputs, labels))
    other = beta_eff.from_state(measured(held, params, None, inputs, labels))
    for strength, result in one.items():
        assert abs(float(result.value)) > 0
        np.testing.assert_allclose(result.value, other[strength].value, rtol=1e-11)


def test_a_bfloat16_model_is_measured_in_its_own_states():
    """Sums are float32; the states carry bfloat16's eight bits."""
    params, offset, inputs, labels = mlp_case(3, 64, np.float32)

    def narrow(params, constants, x):
        x = x.astype(jnp.bfloat16)
        for kernel, bias in params:
            x = x @ kernel.astype(jnp.bfloat16) + bias.astype(jnp.bfloat16)[None, :]
            x = jax.nn.relu(x) if kernel is not params[-1][0] else x
        return x.astype(jnp.float32)

    one = beta_eff.from_state(measured(narrow, params, offset, inputs, labels))
    other = beta_eff.from_state(measured(perceptron, params, offset, inputs, labels))
    for strength in ("absolute", "squared"):
        assert one[strength].value.dtype == jnp.float32
        np.testing.assert_allclose(one[strength].value, other[strength].value, rtol=0.05)
