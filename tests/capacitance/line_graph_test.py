"""The implicit degrees against the dense oracle, and the stream against one batch."""

from __future__ import annotations

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.capacitance import line_graph, reference
from ncap_jax.capacitance.beta_eff import from_state
from ncap_jax.types import STRENGTHS
from tests.capacitance.nets import Net, random_net

# docs/numerics.md: float64 against float64.
EXACT = 1e-12

SHAPES = [
    ((5, 6, 4, 5, 3), 7),
    ((3, 1, 2, 1, 2), 1),
    ((2, 7, 3, 4, 6, 5), 12),
    ((4, 3, 3, 3, 3, 3, 4), 3),
]


def layers_of(net: Net, dtype=jnp.float64) -> list[line_graph.Layer]:
    scales = [*net.scales, None]
    shifts = [*net.shifts, None]
    parts = zip(net.kernels, net.biases, scales, shifts, strict=True)
    return [
        line_graph.Layer(*(None if x is None else jnp.asarray(x, dtype) for x in part))
        for part in parts
    ]


@jax.jit
def measure(layers, inputs, labels, mask=None):
    state = line_graph.init(layers, STRENGTHS)
    return line_graph.update(state, layers, jnp.asarray(inputs), jnp.asarray(labels), mask)


def oracle(net: Net, strength: str) -> np.ndarray:
    return reference.dense_adjacency(
        net.kernels, net.biases, net.inputs, net.labels, strength, net.scales, net.shifts
    )


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "batch_norm"])
@pytest.mark.parametrize(("widths", "batch"), SHAPES)
def test_against_the_dense_oracle(x64, widths, batch, plain, strength):
    net = random_net(sum(widths), widths, batch, plain=plain)
    adjacency = oracle(net, strength)
    state = measure(layers_of(net), net.inputs, net.labels)
    sums = jax.jit(line_graph.finalise)(state)[strength]
    rows, columns = adjacency.sum(axis=1), adjacency.sum(axis=0)
    scale = np.abs(adjacency).sum() + 1e-300
    starts = np.cumsum([0, *(k.size for k in net.kernels)])
    for degrees, dense in ((sums.delta_in, rows), (sums.delta_out, columns)):
        for number, degree in degrees.items():
            expected = dense[starts[number - 1] : starts[number]].reshape(degree.shape)
            np.testing.assert_allclose(degree, expected, rtol=0, atol=EXACT * scale)
    np.testing.assert_allclose(sums.total, adjacency.sum(), rtol=0, atol=EXACT * scale)
    result = from_state(state)[strength]
    if result.status == "ok":
        tolerance = EXACT * float(result.condition)
        np.testing.assert_allclose(result.value, reference.beta_eff(adjacency), rtol=tolerance)
    else:  # a dead path: nothing but rounding is left in the rows that the dense P sums
        assert result.status == "converged"
        assert np.abs(rows).max() <= EXACT * scale


def test_magnitude_is_the_absolute_strength(x64):
    net = random_net(3, (4, 5, 4, 3, 3), 6, plain=False)
    sums = jax.jit(line_graph.finalise)(measure(layers_of(net), net.inputs, net.labels))
    signed, absolute = oracle(net, "signed"), oracle(net, "absolute")
    # In the signed form layer L-1's edges cancel within each sample and are left out.
    edges = sum(k.size for k in net.kernels[:2])
    expected = absolute[:edges].sum()
    np.testing.assert_allclose(sums["signed"].magnitude, expected, rtol=EXACT)
    np.testing.assert_allclose(sums["absolute"].magnitude, absolute.sum(), rtol=EXACT)
    total = sums["total"]
    delta_in = oracle(net, "total").sum(axis=1)
    np.testing.assert_allclose(total.magnitude, np.abs(delta_in).sum(), rtol=EXACT)
    assert abs(signed.sum()) <= expected


def test_closed_form_of_total_against_autodiff(x64):
    """The oracle's own oracle: JAX's Hessian of the loss between adjacent layers."""
    net = random_net(11, (3, 4, 3, 2, 3), 5, plain=False)
    kernels = [jnp.asarray(k) for k in net.kernels]

    def loss(kernels):
        z = jnp.asarray(net.inputs)
        for index, kernel in enumerate(kernels):
            a = z @ kernel + net.biases[index][None, :]
            if index < len(kernels) - 1:
                z = jax.nn.relu(a * net.scales[index][None, :] + net.shifts[index][None, :])
        log_p = jax.nn.log_softmax(a, axis=1)
        return -jnp.mean(log_p[jnp.arange(len(net.labels)), net.labels])

    hessian = jax.jit(jax.hessian(loss))(kernels)
    adjacency = oracle(net, "total")
    starts = np.cumsum([0, *(k.size for k in net.kernels)])
    for low in range(len(kernels) - 1):
        rows = slice(starts[low], starts[low + 1])
        columns = slice(starts[low + 1], starts[low + 2])
        block = -np.asarray(hessian[low][low + 1]).reshape(kernels[low].size, -1)
        np.testing.assert_allclose(adjacency[rows, columns], block, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [1, 4, 5, 13])
def test_any_batching_gives_the_same(x64, size):
    net = random_net(5, (4, 5, 4, 3, 3), 13, plain=False)
    layers = layers_of(net)
    whole = from_state(measure(layers, net.inputs, net.labels))
    state = line_graph.init(layers, STRENGTHS)
    update = jax.jit(line_graph.update, donate_argnums=0)
    for start in range(0, 13, size):
        # The last batch is padded to the full size; NaN proves that padding is not read.
        inputs = np.full((size, 4), np.nan)
        labels, mask = np.zeros(size, np.int32), np.arange(size) < 13 - start
        inputs[mask], labels[mask] = net.inputs[start : start + size], net.labels[start:][:size]
        state = update(state, layers, jnp.asarray(inputs), jnp.asarray(labels), jnp.asarray(mask))
    assert int(state.samples) == 13
    for strength, result in from_state(state).items():
        np.testing.assert_allclose(result.value, whole[strength].value, rtol=EXACT)
        assert result.status == whole[strength].status


def test_states_of_two_devices_add(x64):
    net = random_net(5, (4, 5, 4, 3, 3), 13)
    layers = layers_of(net)
    parts = [measure(layers, net.inputs[i], net.labels[i]) for i in (slice(0, 6), slice(6, 13))]
    both = from_state(jax.tree.map(jnp.add, *parts))
    for strength, whole in from_state(measure(layers, net.inputs, net.labels)).items():
        np.testing.assert_allclose(both[strength].value, whole.value, rtol=EXACT)


def test_batch_statistics_are_those_of_the_inputs(x64):
    net = random_net(8, (4, 6, 5, 4, 3), 9, plain=False)
    gammas, betas = [jnp.asarray(v) for v in net.scales], [jnp.asarray(v) for v in net.shifts]
    with_statistics = jax.jit(line_graph.with_batch_statistics)
    layers = with_statistics(layers_of(net), gammas, betas, jnp.asarray(net.inputs), 1e-3)
    z = net.inputs
    for index in range(3):
        a = z @ net.kernels[index] + net.biases[index]
        normal = (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + 1e-3)
        expected = net.scales[index] * normal + net.shifts[index]
        folded = a * np.asarray(layers[index].scale) + np.asarray(layers[index].shift)
        np.testing.assert_allclose(folded, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        z = np.maximum(expected, 0)


def test_no_matrix_where_a_sum_suffices():
    net = random_net(1, (4, 5, 6, 4, 3, 2), 3)
    sums = line_graph.init(layers_of(net, jnp.float32), STRENGTHS).sums
    assert list(sums["signed"].delta_in) == [2, 3]
    assert list(sums["absolute"].delta_in) == [2, 3, 4]
    assert list(sums["squared"].delta_out) == [2, 3, 4]
    assert list(sums["total"].delta_in) == [1, 2, 3, 4]


def test_no_edge_by_edge_array_is_built():
    """Nothing in the compiled program is larger than the largest weight or activation."""
    net = random_net(1, (16, 12, 12, 12, 8), 4)
    layers = layers_of(net, jnp.float32)
    arguments = (layers, jnp.zeros((4, 16), jnp.float32), jnp.zeros(4, jnp.int32))
    jaxpr = jax.make_jaxpr(measure)(*arguments)
    largest = max(k.size for k in net.kernels)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    assert max(sizes(jaxpr.jaxpr)) <= largest
