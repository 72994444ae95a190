"""Implicit degrees of an MLP's directed line graph, streamed over batches.

The edges of the network are the nodes of its line graph; P[e, e'] says how strongly weight e'
drives the change of weight e. P is never built: its row and column sums have the shape of the
weights and take one matrix product per layer (equation (3)). Everything accumulated here is a
plain sum over samples, so any batching, and any sharding of the batch over devices, gives the
same number up to rounding.

Symbols (the superscript l is the layer number 1..L, the key of the dictionaries below):

    W^l, b^l    layers[l - 1].kernel (n_{l-1}, n_l), .bias (n_l,)
    z^l         states.z[l] (batch, n_l): activations, z^0 = inputs; l = 0..L-1
    s^l         states.s[l] (batch, n_l): slopes dz/da; l = 1..L-1
    g^l         states.g[l] (batch, n_l): gradients of one sample's loss by a^l
    delta_in    Sums.delta_in[l] (n_{l-1}, n_l): row sums of P
    delta_out   Sums.delta_out[l] (n_{l-1}, n_l): column sums of P

Source: Jiang et al., Neural Capacitance (arXiv 2201.04194). Equation numbers are those of
`docs/numerics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ncap_jax.types import Strength

# float32 products in full precision on every device: TPUs and GPUs round to fewer bits by default.
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

MAPS = {"signed": lambda x: x, "absolute": jnp.abs, "squared": jnp.square}
# P has the factor SIGN * alpha^POWER: -alpha, alpha, alpha^2 and -alpha.
POWER: Mapping[str, int] = {"signed": 1, "absolute": 1, "squared": 2, "total": 1}
SIGN: Mapping[str, int] = {"signed": -1, "absolute": 1, "squared": 1, "total": -1}


class Layer(NamedTuple):
    """a = z W + b, then z = relu(scale a + shift), or softmax in the last layer.

    Attributes:
        kernel: (n_in, n_out).
        bias: (n_out,).
        scale: (n_out,), the folded batch norm's factor; None: 1. Unused in the last layer.
        shift: (n_out,), the folded batch norm's offset; None: 0. Unused in the last layer.
    """

    kernel: Array
    bias: Array
    scale: Array | None = None
    shift: Array | None = None


class States(NamedTuple):
    """Node states of one batch, by the layer numbers of the equations."""

    z: dict[int, Array]
    s: dict[int, Array]
    g: dict[int, Array]


class Sums(NamedTuple):
    """What beta_eff needs of one strength, summed (or, after `finalise`, averaged) over samples.

    Attributes:
        delta_in: layer number (for a whole network: parameter name) -> array in the shape of the
            weight, for the layers where both degrees can differ from 0 (for `total`: layer 1 too).
        delta_out: the same, for the layers where both degrees can differ from 0.
        total: (), 1' P 1 over all layers.
        magnitude: (), the same sum without cancellation: 1' |P| 1, the absolute value taken
            sample by sample; for `total` the sum of |delta_in|, which `finalise` sets.
    """

    delta_in: dict[Any, Array]
    delta_out: dict[Any, Array]
    total: Array
    magnitude: Array


class State(NamedTuple):
    """The accumulator: plain sums, so that states of different devices add leaf by leaf.

    Attributes:
        samples: (), int32, number of samples.
        sums: strength -> `Sums`.
    """

    samples: Array
    sums: dict[str, Sums]


def fold_batch_norm(
    gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Batch norm gamma (a - mean) / sqrt(variance + epsilon) + beta as scale a + shift.

    Args:
        gamma: (n,) gains.
        beta: (n,) offsets.
        mean: (n,) means.
        variance: (n,) variances.
        epsilon: what is added to the variances.

    Returns:
        scale and shift, (n,) each.
    """
    scale = gamma * jax.lax.rsqrt(variance + epsilon)
    return scale, beta - scale * mean


def matrix_layers(depth: int, strength: str) -> range:
    """Numbers of the layers of which both degrees can differ from 0.

    delta_out of layer 1 and delta_in of layer L are 0 by definition. In the signed form softmax
    with cross-entropy gives G^L = sum_k g^L_k = 0 for every sample, hence delta_in^{L-1} = 0.
    """
    return range(2, depth - 1 if strength == "signed" else depth)


def _affine(layer: Layer, z: Array) -> Array:
    return matmul(z, layer.kernel) + layer.bias[None, :]


def _activate(layer: Layer, a: Array) -> tuple[Array, Array]:
    """Activation z = relu(scale a + shift) and its slope, both (batch, n)."""
    scale = jnp.ones(a.shape[1:], a.dtype) if layer.scale is None else layer.scale
    y = a if layer.scale is None else a * scale[None, :]
    y = y if layer.shift is None else y + layer.shift[None, :]
    dead = y <= 0  # not `y > 0`: a NaN must get through, to be reported
    return jnp.where(dead, 0, y), jnp.where(dead, 0, scale[None, :])


def with_batch_statistics(
    layers: Sequence[Layer],
    gammas: Sequence[Array],
    betas: Sequence[Array],
    inputs: Array,
    epsilon: float,
) -> list[Layer]:
    """Fold in a batch norm that uses the mean and variance over `inputs` itself.

    Args:
        layers: L layers; their scale and shift are replaced.
        gammas: L - 1 gains (n_out,).
        betas: L - 1 offsets (n_out,).
        inputs: (batch, n_0), the whole measurement set.
        epsilon: what batch norm adds to the variance.
    """
    folded, z = [], inputs
    for layer, gamma, beta in zip(layers[:-1], gammas, betas, strict=True):
        a = _affine(layer, z)
        scale, shift = fold_batch_norm(gamma, beta, a.mean(axis=0), a.var(axis=0), epsilon)
        folded.append(layer._replace(scale=scale, shift=shift))
        z, _ = _activate(folded[-1], a)
    return [*folded, layers[-1]]


def states(
    layers: Sequence[Layer],
    inputs: Array,
    labels: Array,
    mask: Array | None = None,
    lowest: int = 2,
) -> States:
    """Forward and backward recursion: z^0..z^{L-1}, s^1..s^{L-1}, g^lowest..g^L.

    Args:
        layers: L layers.
        inputs: (batch, n_0).
        labels: (batch,) integers.
        mask: (batch,) bool, False for samples that only pad the batch; None: all count.
        lowest: the lowest layer whose g is needed.
    """
    depth = len(layers)
    if mask is not None:  # padding may hold anything, even NaN
        inputs = jnp.where(mask[:, None], inputs, 0)
    z, s = {0: inputs}, {}
    for ell in range(1, depth):
        z[ell], s[ell] = _activate(layers[ell - 1], _affine(layers[ell - 1], z[ell - 1]))
    logits = _affine(layers[-1], z[depth - 1])
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    g = {depth: jax.nn.softmax(logits, axis=1) - one_hot}  # g^L = softmax(a^L) - y
    if mask is not None:
        g[depth] = jnp.where(mask[:, None], g[depth], 0)
    for ell in reversed(range(lowest, depth)):
        g[ell] = s[ell] * matmul(g[ell + 1], layers[ell].kernel.T)  # g^l = s^l o (W^{l+1}' g^{l+1})
    return States(z, s, g)


def _edge_total(node_states: States, last: int) -> Array:
    """Sum of delta_in, without SIGN, over all edges of layers 1..last: O(units) per sample."""
    z, s, g = node_states
    return sum(  # type: ignore[return-value]
        jnp.sum(z[ell - 1].sum(axis=1) * s[ell].sum(axis=1) * g[ell + 1].sum(axis=1))
        for ell in range(1, last + 1)
    )


def _separable_sums(node_states: States, strength: str) -> Sums:
    """Equation (3) for the strengths that are products of one function of z, of s and of g."""
    depth, sign = len(node_states.s) + 1, SIGN[strength]
    mapped = States(*(jax.tree.map(MAPS[strength], part) for part in node_states))
    z, s, g = mapped
    delta_in, delta_out = {}, {}
    for ell in matrix_layers(depth, strength):
        g_sum = g[ell + 1].sum(axis=1, keepdims=True)  # G^{l+1}_b
        z_sum = z[ell - 2].sum(axis=1, keepdims=True)  # Z^{l-2}_b
        delta_in[ell] = sign * matmul(z[ell - 1].T, s[ell] * g_sum)  # (3), first line
        delta_out[ell] = sign * matmul((s[ell - 1] * z_sum).T, g[ell])  # (3), second line
    last = matrix_layers(depth, strength).stop - 1
    total = magnitude = _edge_total(mapped, last)
    if strength == "signed":
        sizes = States(*(jax.tree.map(jnp.abs, part) for part in node_states))
        magnitude = _edge_total(sizes, last)
    return Sums(delta_in, delta_out, sign * total, magnitude)


def _derivatives_along_ones(
    layers: Sequence[Layer], node_states: States, probabilities: Array, m: int
) -> tuple[Array, dict[int, Array]]:
    """Derivatives of a^m and of g^{m-1}..g^L in the direction "every weight of W^m by 1".

    Forward over the explicit gradients; the direction of ones takes sums instead of products.
    """
    depth, (z, s, g) = len(layers), node_states
    da_m = da = z[m - 1].sum(axis=1, keepdims=True)  # the same for every unit
    for ell in range(m, depth):
        da = matmul(s[ell] * da, layers[ell].kernel)  # da^{l+1} = (s^l o da^l) W^{l+1}
    mean = jnp.sum(probabilities * da, axis=1, keepdims=True)
    dg = {depth: probabilities * (da - mean)}  # dg^L = (diag(p) - p p') da^L
    for ell in reversed(range(m - 1 if m > 1 else m + 1, depth)):
        back = matmul(dg[ell + 1], layers[ell].kernel.T)
        if ell == m - 1:  # W^m itself changes
            back = back + g[m].sum(axis=1, keepdims=True)
        dg[ell] = s[ell] * back
    return da_m, dg


def _total_sums(layers: Sequence[Layer], inputs: Array, labels: Array, mask: Array | None) -> Sums:
    """P = -alpha d2C/dW^l dW^{l+1} times ones: forward over the explicit gradients.

    The derivative of all weight gradients in the direction "every weight of layer m by 1" is
    -delta_in in layer m-1 and -delta_out in layer m+1.
    """
    depth, node_states = len(layers), states(layers, inputs, labels, mask)
    z, s, g = node_states
    probabilities = jax.nn.softmax(_affine(layers[-1], z[depth - 1]), axis=1)
    if mask is not None:
        probabilities = jnp.where(mask[:, None], probabilities, 0)
    delta_in, delta_out = {}, {}
    for m in range(1, depth + 1):
        da, dg = _derivatives_along_ones(layers, node_states, probabilities, m)
        if m > 1:
            delta_in[m - 1] = -matmul(z[m - 2].T, dg[m - 1])
        if m + 1 < depth:  # delta_in^L = 0: delta_out^L is not needed
            held = matmul((s[m] * da).T, g[m + 1])
            delta_out[m + 1] = -(held + matmul(z[m].T, dg[m + 1]))
    total = sum(jnp.sum(d) for d in delta_in.values())
    return Sums(delta_in, delta_out, total, jnp.zeros_like(total))  # type: ignore[arg-type]


def init(layers: Sequence[Layer], strengths: Iterable[Strength]) -> State:
    """An empty accumulator for `layers`, in the dtype of their kernels."""
    depth, dtype = len(layers), layers[0].kernel.dtype

    def zeros(numbers: Iterable[int]) -> dict[int, Array]:
        # Every leaf has a buffer of its own: a shared one could not be donated.
        return {ell: jnp.zeros_like(layers[ell - 1].kernel) for ell in numbers}

    def empty(strength: str) -> Sums:
        inner = matrix_layers(depth, strength)
        rows = range(1, depth) if strength == "total" else inner
        return Sums(zeros(rows), zeros(inner), jnp.zeros((), dtype), jnp.zeros((), dtype))

    return State(jnp.zeros((), jnp.int32), {strength: empty(strength) for strength in strengths})


def update(
    state: State,
    layers: Sequence[Layer],
    inputs: Array,
    labels: Array,
    mask: Array | None = None,
) -> State:
    """Add one batch; pure, so it can be jitted with `state` donated.

    Args:
        state: from `init` or an earlier `update`.
        layers: L layers, the same in every call.
        inputs: (batch, n_0) in the dtype of the layers.
        labels: (batch,) integers 0..n_L - 1.
        mask: (batch,) bool, False for samples that only pad the batch; None: all count.
    """
    number = inputs.shape[0] if mask is None else jnp.sum(mask, dtype=jnp.int32)
    separable = [name for name in state.sums if name != "total"]
    new: dict[str, Sums] = {}
    if separable:
        node_states = states(layers, inputs, labels, mask)
        new = {name: _separable_sums(node_states, name) for name in separable}
    if "total" in state.sums:
        new["total"] = _total_sums(layers, inputs, labels, mask)
    return State(state.samples + number, jax.tree.map(jnp.add, state.sums, new))


def finalise(state: State) -> dict[str, Sums]:
    """Means over the samples: strength -> `Sums` for alpha = 1.

    Without any sample every number is NaN, which the quotient reports as `non_finite`.
    """
    means = {}
    for strength, sums in state.sums.items():
        mean = jax.tree.map(lambda x: x / state.samples.astype(x.dtype), sums)
        if strength == "total":  # the mixed derivative has no absolute form per sample
            magnitude = sum(jnp.sum(jnp.abs(d)) for d in mean.delta_in.values())
            mean = mean._replace(magnitude=magnitude)
        means[strength] = mean
    return means
