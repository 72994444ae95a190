"""Whole networks against a brute-force dense P."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ncap_jax.capacitance import beta_eff, network
from ncap_jax.capacitance.reference import beta_eff as dense_beta_eff
from tests.capacitance import brute_force

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
