"""Small networks of every kind of architecture, in the form that `brute_force` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# layer(name, u) applies a weight layer.
Layer = Callable[[str, Array], Array]
# hold(x) marks what the method holds.
Hold = Callable[[Array], Array]
Lin = Callable[[Array, Array], Array]


def dense(w: Array, u: Array) -> Array:
    return jnp.tensordot(u, w, axes=(u.ndim - 1, 0))


def conv(stride: int = 1, groups: int = 1, dilation: int = 1, padding: str = "SAME") -> Lin:
    def lin(w: Array, u: Array) -> Array:
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


def scaled(x: Array, seed: int) -> Array:
    """A folded batch norm: scales of both signs, and offsets."""
    rng = np.random.default_rng(seed)
    shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
    return x * jnp.asarray(rng.normal(size=shape)) + jnp.asarray(rng.normal(size=shape))


def layer_norm(x: Array, hold: Hold) -> Array:
    mean = hold(x.mean(axis=-1, keepdims=True))
    variance = hold(jnp.square(x).mean(axis=-1, keepdims=True) - mean**2)
    # With equal gains the signed value of a pre-norm transformer is 0: the loss does not change
    # when all channels of the residual stream shift together.
    return scaled((x - mean) * lax.rsqrt(variance + 1e-3), 8)


def mean_pool(x: Array) -> Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def max_pool(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mlp(layer: Layer, hold: Hold, x: Array) -> Array:
    for name in "abcd":
        x = jax.nn.relu(scaled(layer(name, x), ord(name)))
    return layer("e", x) + 0.1


def two_convolutions_and_a_skip(layer: Layer, hold: Hold, x: Array) -> Array:
    x = jax.nn.relu(layer("a", x) + 0.1)
    x = jax.nn.relu(scaled(layer("b", x), 0) + x)
    x = max_pool(x).reshape(x.shape[0], -1)
    x = jax.nn.relu(layer("c", x) + 0.2)
    x = jax.nn.gelu(layer("d", x))
    return layer("e", x)


def depthwise_separable(layer: Layer, hold: Hold, x: Array) -> Array:
    x = jax.nn.relu(scaled(layer("a", x), 1))
    x = jax.nn.relu6(scaled(layer("b", x), 2))
    x = jax.nn.silu(scaled(layer("c", x), 3))
    return layer("d", x.mean(axis=(1, 2)))


def dense_concatenation(layer: Layer, hold: Hold, x: Array) -> Array:
    x = layer("a", x)
    for name in "bc":
        y = layer(name, jax.nn.relu(scaled(x, ord(name))))
        x = jnp.concatenate([x, y], axis=-1)
    x = mean_pool(layer("d", jax.nn.relu(x)))
    return layer("e", jax.nn.relu(x).reshape(x.shape[0], -1))


def strided_residual(layer: Layer, hold: Hold, x: Array) -> Array:
    x = jax.nn.relu(layer("a", x))
    y = jax.nn.relu(scaled(layer("b", x), 5))
    y = scaled(layer("c", y), 6)
    x = jax.nn.relu(y + scaled(layer("d", x), 7))
    x = jax.nn.tanh(layer("e", jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)))))
    return layer("f", x.mean(axis=(1, 2)))


def squeeze_and_excite(layer: Layer, hold: Hold, x: Array) -> Array:
    x = jax.nn.relu(layer("a", x))
    gate = jax.nn.sigmoid(layer("c", jax.nn.relu(layer("b", x.mean(axis=(1, 2))))))
    x = x * gate[:, None, None, :]
    x = jax.nn.relu(layer("d", x)).max(axis=(1, 2))
    return layer("e", x)


def other_norms(layer: Layer, hold: Hold, x: Array) -> Array:
    """Root mean square, and a softmax over units: statistics of their own source, held."""
    x = layer("a", x)
    x = layer("b", x * lax.rsqrt(hold(jnp.square(x).mean(axis=1, keepdims=True)) + 1e-3))
    x = jnp.exp(x - hold(x.max(axis=1, keepdims=True)))
    x = layer("c", x / hold(x.sum(axis=1, keepdims=True)))
    return layer("e", jax.nn.tanh(layer("d", x)))


def two_head_attention(layer: Layer, hold: Hold, x: Array) -> Array:
    x = layer("in", x) + 0.1 * jnp.arange(x.shape[1], dtype=x.dtype)[None, :, None]
    y = layer_norm(x, hold)
    query, key, value = (layer(name, y) for name in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2.0)
    y = jnp.einsum("bhqk,bkhd->bqhd", hold(jax.nn.softmax(scores)), value)
    x = x + layer("out", y)
    x = x + layer("down", jax.nn.gelu(layer("up", layer_norm(x, hold))))
    return layer("head", layer_norm(x, hold).mean(axis=1))


def heads(w: Array, u: Array) -> Array:
    return jnp.einsum("btc,chd->bthd", u, w)


def merged(w: Array, u: Array) -> Array:
    return jnp.einsum("bthd,hdc->btc", u, w)


# name -> (net, layers with the shape of their weight, shape of a sample)
NETS: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
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


class Example(NamedTuple):
    """A network with random weights and a batch."""

    net: Callable[[Layer, Hold, Array], Array]
    lins: dict[str, Lin]
    weights: dict[str, Array]
    inputs: Array
    labels: Array


def example(name: str, batch: int = 3, seed: int = 0) -> Example:
    """One of `NETS`, with Gaussian weights and inputs and three classes."""
    net, layers, shape = NETS[name]
    rng = np.random.default_rng(seed)
    lins = {key: lin for key, (lin, _) in layers.items()}
    weights = {key: jnp.asarray(rng.normal(size=s)) for key, (_, s) in layers.items()}
    inputs = jnp.asarray(rng.normal(size=(batch, *shape)))
    labels = jnp.asarray(rng.integers(0, 3, batch), jnp.int32)
    return Example(net, lins, weights, inputs, labels)
