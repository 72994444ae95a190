"""The implicit degrees against the dense oracle, and streamed batches against one batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from ncap_jax.capacitance import line_graph, reference
from ncap_jax.capacitance.beta_eff import BetaEff, from_state
from ncap_jax.types import STRENGTHS
from tests.support.nets import Net, random_net

# docs/numerics.md: float64 against float64.
EXACT = 1e-12

SHAPES = [
    ((5, 6, 4, 5, 3), 7),
    ((3, 1, 2, 1, 2), 1),
    ((2, 7, 3, 4, 6, 5), 12),
    ((4, 3, 3, 3, 3, 3, 4), 3),
]


def layers_of(net: Net, dtype: Any = jnp.float64) -> list[line_graph.Layer]:
    parts = zip(net.kernels, net.biases, [*net.scales, None], [*net.shifts, None], strict=True)
    return [
        line_graph.Layer(*(None if x is None else jnp.asarray(x, dtype) for x in part))
        for part in parts
    ]


class Measured(NamedTuple):
    """The accumulator after one batch, and what becomes of it."""

    state: line_graph.State
    sums: dict[str, line_graph.Sums]
    values: dict[str, BetaEff]


@jax.jit
def measure(layers: list[line_graph.Layer], inputs: Array, labels: Array) -> Measured:
    state = line_graph.update(line_graph.init(layers, STRENGTHS), layers, inputs, labels)
    return Measured(state, line_graph.finalise(state), from_state(state))


def measure_net(net: Net) -> Measured:
    return measure(layers_of(net), jnp.asarray(net.inputs), jnp.asarray(net.labels))


def oracle(net: Net, strength: str) -> np.ndarray:
    return reference.dense_adjacency(*net.plain, strength, net.scales, net.shifts)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "batch_norm"])
@pytest.mark.parametrize(("widths", "batch"), SHAPES)
def test_against_the_dense_oracle(x64, widths, batch, plain):
    net = random_net(sum(widths), widths, batch, plain=plain)
    measured = measure_net(net)
    starts = np.cumsum([0, *(k.size for k in net.kernels)])
    for strength in STRENGTHS:
        adjacency, sums = oracle(net, strength), measured.sums[strength]
        rows, columns = adjacency.sum(axis=1), adjacency.sum(axis=0)
        scale = np.abs(adjacency).sum() + 1e-300
        for degrees, dense in ((sums.delta_in, rows), (sums.delta_out, columns)):
            for number, degree in degrees.items():
                expected = dense[starts[number - 1] : starts[number]].reshape(degree.shape)
                np.testing.assert_allclose(degree, expected, rtol=0, atol=EXACT * scale)
        np.testing.assert_allclose(sums.total, adjacency.sum(), rtol=0, atol=EXACT * scale)
        result = measured.values[strength]
        if result.status == "ok":
            tolerance = EXACT * float(result.condition)
            np.testing.assert_allclose(result.value, reference.beta_eff(adjacency), rtol=tolerance)
        else:  # a dead path: nothing but rounding is left in the rows that the dense P sums
            assert result.status == "converged"
            assert np.abs(rows).max() <= EXACT * scale


@pytest.mark.parametrize(("widths", "batch"), [SHAPES[0], SHAPES[2]])
def test_most_nets_have_a_value(x64, widths, batch):
    """The comparison above is not one of dead networks."""
    values = measure_net(random_net(sum(widths), widths, batch, plain=False)).values
    assert {result.status for result in values.values()} == {"ok"}


def test_magnitude_is_the_absolute_strength(x64):
    net = random_net(3, *SHAPES[0], plain=False)
    sums = measure_net(net).sums
    signed, absolute = oracle(net, "signed"), oracle(net, "absolute")
    # In the signed form layer L-1's edges cancel within each sample and are left out.
    edges = sum(k.size for k in net.kernels[:2])
    expected = absolute[:edges].sum()
    np.testing.assert_allclose(sums["signed"].magnitude, expected, rtol=EXACT)
    np.testing.assert_allclose(sums["absolute"].magnitude, absolute.sum(), rtol=EXACT)
    delta_in = oracle(net, "total").sum(axis=1)
    np.testing.assert_allclose(sums["total"].magnitude, np.abs(delta_in).sum(), rtol=EXACT)
    assert abs(signed.sum()) <= expected


def test_signs_and_powers_of_alpha_are_those_of_the_dense_matrix():
    net = random_net(3, *SHAPES[0], plain=False)
    for strength in STRENGTHS:
        one, two = (
            reference.dense_adjacency(*net.plain, strength, net.scales, net.shifts, alpha)
            for alpha in (1.0, 2.0)
        )
        np.testing.assert_allclose(two, one * 2.0 ** line_graph.POWER[strength], rtol=EXACT)
    assert (oracle(net, "absolute") * line_graph.SIGN["absolute"]).min() >= 0
    assert (oracle(net, "squared") * line_graph.SIGN["squared"]).min() >= 0


(WIDTHS, SAMPLES), ROWS = SHAPES[0], 3  # shapes that are compiled anyway
update = jax.jit(line_graph.update, donate_argnums=0)


@st.composite
def batchings(draw: st.DrawFn) -> list[list[int]]:
    """The samples in any order, cut into batches of at most `ROWS`."""
    order = draw(st.permutations(range(SAMPLES)))
    cuts = {0, SAMPLES}
    while (position := max(c for c in cuts if c < SAMPLES)) + ROWS < SAMPLES:
        cuts.add(position + draw(st.integers(1, ROWS)))
    return [list(order[a:b]) for a, b in itertools.pairwise(sorted(cuts))]


def streamed(net: Net, batches: list[list[int]], place: int = 0) -> line_graph.State:
    """The accumulator after batches that are padded to `ROWS`; `place`: of the first sample."""
    layers = layers_of(net)
    state = line_graph.init(layers, STRENGTHS)
    for batch in batches:
        rows = (place + np.arange(len(batch))) % ROWS
        # NaN proves that padding is not read.
        inputs, labels = np.full((ROWS, WIDTHS[0]), np.nan), np.zeros(ROWS, np.int32)
        inputs[rows], labels[rows] = net.inputs[batch], net.labels[batch]
        arrays = (jnp.asarray(a) for a in (inputs, labels, np.isin(np.arange(ROWS), rows)))
        state = update(state, layers, *arrays)
    return state


@settings(max_examples=25, deadline=None)
@given(batches=batchings(), place=st.integers(0, ROWS - 1))
def test_any_batching_gives_the_same(batches, place):
    with jax.enable_x64(True):
        net = random_net(5, WIDTHS, SAMPLES, plain=False)
        state, whole = streamed(net, batches, place), measure_net(net)
        assert int(state.samples) == SAMPLES
        values = from_state(state)
        for strength, expected in whole.values.items():
            np.testing.assert_allclose(values[strength].value, expected.value, rtol=EXACT)
            assert values[strength].status == expected.status


def test_states_of_two_devices_add(x64):
    net = random_net(5, WIDTHS, SAMPLES)
    one, other = streamed(net, [[0, 1, 2], [3]]), streamed(net, [[4, 5, 6]])
    both = from_state(jax.tree.map(jnp.add, one, other))
    for strength, whole in measure_net(net).values.items():
        np.testing.assert_allclose(both[strength].value, whole.value, rtol=EXACT)


def test_without_samples_there_is_no_value(x64):
    for result in from_state(streamed(random_net(5, WIDTHS, SAMPLES), [])).values():
        assert result.status == "non_finite"
        assert np.isnan(float(result))


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


def test_folded_batch_norm_is_the_formula(x64):
    gamma, beta, mean, variance, a = np.random.default_rng(0).uniform(0.5, 2, size=(5, 6))
    arrays = (jnp.asarray(x) for x in (gamma, beta, mean, variance))
    scale, shift = line_graph.fold_batch_norm(*arrays, 1e-3)
    expected = gamma * (a - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(scale * a + shift, expected, rtol=EXACT)


def test_no_matrix_where_a_sum_suffices():
    net = random_net(1, (4, 5, 6, 4, 3, 2), 3)
    sums = line_graph.init(layers_of(net, jnp.float32), STRENGTHS).sums
    assert list(sums["signed"].delta_in) == [2, 3]
    assert list(sums["absolute"].delta_in) == [2, 3, 4]
    assert list(sums["squared"].delta_out) == [2, 3, 4]
    assert list(sums["total"].delta_in) == [1, 2, 3, 4]


def array_sizes(jaxpr: jax.extend.core.Jaxpr) -> Iterator[int]:
    """Sizes of all arrays that a program computes."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from array_sizes(inner)


def test_no_edge_by_edge_array_is_built():
    """Nothing that is computed is larger than the largest weight or activation."""
    net = random_net(1, (16, 12, 12, 12, 8), 4)
    layers = layers_of(net, jnp.float32)
    arguments = (layers, jnp.zeros((4, 16), jnp.float32), jnp.zeros(4, jnp.int32))
    program = jax.make_jaxpr(measure)(*arguments)
    assert max(array_sizes(program.jaxpr)) <= max(k.size for k in net.kernels)


def test_narrow_products_are_taken_in_full_precision():
    x = jnp.ones((2, 2), jnp.float32)
    (product,) = jax.make_jaxpr(line_graph.matmul)(x, x).jaxpr.eqns[-1:]
    while "jaxpr" in product.params:
        product = product.params["jaxpr"].jaxpr.eqns[-1]
    highest = jax.lax.Precision.HIGHEST
    assert product.params["precision"] in (highest, (highest, highest))
