"""Dense P of any small network, from Jacobians: slow, and shares nothing with the kernels.

A net is a function net(layer, hold, x): `layer(name, u)` applies a weight layer and `hold(x)`
marks what the method holds (statistics, attention maps). P is assembled per sample from

    A_l[e, o]  = d y_o / d W_e      at layer l: an input u
    J[o, i]    = d u_i / d y_o      glue from l to m, all other layers' outputs held
    B_m[e', i] = d2 <g, y> / d W_e' d u_i   at layer m: a gradient g

    P_b[e, e'] = -sum_oi A[e, o] J[o, i] B[e', i]

and for the other strengths every factor is replaced by its absolute value or square first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Arrays = dict[str, Array]
Lins = dict[str, Callable[[Array, Array], Array]]
MAPS = {"signed": np.asarray, "absolute": np.abs, "squared": np.square}


class Pass(NamedTuple):
    """One pass: the logits, and the input and the output of every layer."""

    logits: Array
    inputs: Arrays
    outputs: Arrays


def run(
    net: Callable[..., Array],
    lins: Lins,
    weights: Arrays,
    x: Array,
    *,
    hold: bool,
    outputs: Arrays | None = None,
    taps: Arrays | None = None,
) -> Pass:
    """One pass; `outputs` replaces layers' outputs, `taps` adds to them."""
    inputs: Arrays = {}
    made: Arrays = {}

    def layer(name: str, u: Array) -> Array:
        inputs[name] = u
        y = lins[name](weights[name], u)
        y = y if outputs is None else outputs[name]
        made[name] = y if taps is None else y + taps[name]
        return made[name]

    logits = net(layer, jax.lax.stop_gradient if hold else lambda v: v, x)
    return Pass(logits, inputs, made)


def apply(net: Callable[..., Array], lins: Lins) -> Callable[[Any, Any, Array], Array]:
    """The net as the kernels see it: (weights, constants, inputs) -> logits."""
    return lambda weights, constants, x: run(net, lins, weights, x, hold=False).logits


class Factors(NamedTuple):
    """A and B of every layer, and J of every pair of layers, each raveled to a matrix."""

    a: Arrays
    b: Arrays
    glue: dict[tuple[str, str], Array]


def _factors(
    net: Callable[..., Array], lins: Lins, weights: Arrays, x: Array, label: Array
) -> Factors:
    """The factors of P for one sample, which has no batch axis."""
    x = x[None]
    _, inputs, made = run(net, lins, weights, x, hold=False)

    def loss(taps: Arrays) -> Array:
        logits = run(net, lins, weights, x, hold=False, taps=taps).logits
        return -jax.nn.log_softmax(logits)[0, label]

    g = jax.grad(loss)(jax.tree.map(jnp.zeros_like, made))
    a_factors: Arrays = {}
    b_factors: Arrays = {}
    glue: dict[tuple[str, str], Array] = {}
    for name, lin in lins.items():
        w, u, y = weights[name], inputs[name], made[name]
        by_weight = jax.jacrev(lambda w, lin=lin, u=u: lin(w, u))(w)
        a_factors[name] = by_weight.reshape(y.size, w.size).T
        pairing = lambda w, u, lin=lin, name=name: jnp.sum(g[name] * lin(w, u))  # noqa: E731
        both = jax.jacrev(jax.grad(pairing, argnums=1))(w, u)
        b_factors[name] = both.reshape(u.size, w.size).T

    def glued(outputs: Arrays) -> Arrays:
        return run(net, lins, weights, x, hold=True, outputs=outputs).inputs

    jacobian: Any = jax.jacrev(glued)(made)  # by input of m, then by output of l
    for low, y in made.items():
        for high, u in inputs.items():
            glue[low, high] = jacobian[high][low].reshape(u.size, y.size)
    return Factors(a_factors, b_factors, glue)


def dense_adjacency(
    net: Callable[..., Array], lins: Lins, weights: Arrays, inputs: Array, labels: Array
) -> dict[str, np.ndarray]:
    """P (edges, edges) of every strength, layers in the order of `lins`."""
    every = jax.jit(jax.vmap(lambda x, y: _factors(net, lins, weights, x, y)))(inputs, labels)
    factors = jax.tree.map(np.asarray, every)
    return {strength: _assemble(list(lins), factors, strength) for strength in MAPS}


def _assemble(names: list[str], factors: Factors, strength: str) -> np.ndarray:
    f, (a, bs, glue) = MAPS[strength], factors
    starts = np.cumsum([0, *(a[name].shape[1] for name in names)])
    p = np.zeros((starts[-1], starts[-1]))
    for i, low in enumerate(names):
        for j, high in enumerate(names):
            block = np.einsum(
                "beo,bio,bfi->ef", f(a[low]), f(glue[low, high]), f(bs[high]), optimize=True
            )
            p[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block / len(a[low])
    return -p if strength == "signed" else p
