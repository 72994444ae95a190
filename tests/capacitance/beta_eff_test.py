"""The quotient and the two MLP forms: facts of the method, statuses, jit and vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from ncap_jax.capacitance import beta_eff, line_graph, reference
from ncap_jax.capacitance.beta_eff import BetaEff, mlp_beta_eff, probe_beta_eff
from ncap_jax.errors import ConfigError, KernelError
from ncap_jax.types import STRENGTHS
from tests.support.nets import random_net

# One shape for all tests, so that every strength compiles once in each precision.
WIDTHS, BATCH = (4, 5, 4, 3, 3), 6
seeds = st.integers(0, 2**16)


@jax.jit
def values(
    kernels: Sequence[Array],
    biases: Sequence[Array],
    inputs: Array,
    labels: Array,
    alpha: float | Array = 1.0,
) -> dict[str, BetaEff]:
    return {s: mlp_beta_eff(kernels, biases, inputs, labels, s, alpha) for s in STRENGTHS}


def plain_net(seed: int, widths: Sequence[int] = WIDTHS, batch: int = BATCH) -> tuple[Any, ...]:
    """The arguments of `mlp_beta_eff`, in the widest precision that is enabled."""
    return jax.tree.map(jnp.asarray, random_net(seed, widths, batch).plain)


def assert_same(one: BetaEff, other: BetaEff, rtol: float = 1e-11) -> None:
    """Equal up to rounding, which the condition number amplifies."""
    assert one.status == other.status
    tolerance = rtol * max(float(one.condition), 1.0)
    np.testing.assert_allclose(one.value, other.value, rtol=tolerance, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, layer=st.integers(0, 2))
def test_permuting_hidden_units_changes_nothing(seed, layer):
    net = random_net(seed, WIDTHS, BATCH)
    order = np.random.default_rng(seed).permutation(WIDTHS[layer + 1])
    kernels, biases = list(net.kernels), list(net.biases)
    kernels[layer], biases[layer] = kernels[layer][:, order], biases[layer][order]
    kernels[layer + 1] = kernels[layer + 1][order]
    with jax.enable_x64(True):
        before, after = values(*net.plain), values(kernels, biases, net.inputs, net.labels)
        for strength in STRENGTHS:
            assert_same(before[strength], after[strength])


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_duplicating_the_data_changes_nothing(seed):
    net = random_net(seed, WIDTHS, BATCH // 2)
    twice = np.concatenate([net.inputs, net.inputs]), np.concatenate([net.labels, net.labels])
    with jax.enable_x64(True):
        before, after = values(*net.plain), values(net.kernels, net.biases, *twice)
        for strength in STRENGTHS:
            assert_same(before[strength], after[strength])


@settings(max_examples=10, deadline=None)
@given(seed=seeds, alpha=st.floats(1e-3, 1e3))
def test_learning_rate_scales_linearly_and_quadratically(seed, alpha):
    net = random_net(seed, WIDTHS, BATCH)
    with jax.enable_x64(True):
        scaled = values(*net.plain, alpha)
        for strength, one in values(*net.plain, 1.0).items():
            result = scaled[strength]
            power = 2 if strength == "squared" else 1
            np.testing.assert_allclose(result.value, one.value * alpha**power, rtol=1e-12)
            dense = reference.dense_adjacency(*net.plain, strength, alpha=alpha)
            if result.status == "ok":
                tolerance = 1e-12 * float(result.condition)
                np.testing.assert_allclose(result.value, reference.beta_eff(dense), rtol=tolerance)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_gradients_to_zero_take_beta_eff_to_zero(seed):
    """Theorem 1 of the paper: P is linear in g and vanishes with it."""
    net = random_net(seed, WIDTHS, BATCH)
    kernels, biases, inputs, _ = net.plain
    # Labels as the network predicts them; larger logits bring g to 0 and leave z and s alone.
    z, _, _ = reference.mlp_states(kernels, biases, inputs, net.labels)
    logits = z[-1] @ kernels[-1] + biases[-1]
    labels = logits.argmax(axis=1).astype(np.int32)
    margin = np.partition(logits, -2, axis=1)
    gap = np.min(margin[:, -1] - margin[:, -2])
    with jax.enable_x64(True):
        results = []
        for factor in (1.0, 30 / gap, 60 / gap, 1e6 / gap):
            scaled = [*kernels[:-1], kernels[-1] * factor], [*biases[:-1], biases[-1] * factor]
            results.append(values(*scaled, inputs, labels))
    sizes = [result["absolute"] for result in results]
    assert abs(float(sizes[1])) < 1e-6 or sizes[1].status == "converged"
    assert abs(float(sizes[2])) <= abs(float(sizes[1]))
    for strength in ("signed", "absolute", "squared"):
        assert results[-1][strength].status == "converged"
        assert float(results[-1][strength]) == 0


def test_the_signed_value_is_0_with_two_hidden_layers(x64):
    """Why fewer than three are refused: without the check the kernel says `converged`, 0."""
    net = random_net(1, (4, 5, 4, 3), BATCH)
    layers = [line_graph.Layer(*map(jnp.asarray, pair)) for pair in zip(net.kernels, net.biases)]

    @jax.jit
    def measure(inputs: Array, labels: Array) -> dict[str, BetaEff]:
        empty = line_graph.init(layers, ("signed",))
        return beta_eff.from_state(line_graph.update(empty, layers, inputs, labels))

    assert float(measure(net.inputs, net.labels)["signed"]) == 0


def quotient_of(magnitude: float, total: float, degree: float = 1.0) -> BetaEff:
    """The quotient for one kernel of four weights with equal degrees."""
    degrees = {2: jnp.full((2, 2), degree, jnp.float32)}
    sums = (jnp.asarray(x, jnp.float32) for x in (total, magnitude))
    return jax.jit(beta_eff.quotient)(line_graph.Sums(degrees, degrees, *sums))


def test_a_quotient_by_hand():
    result = quotient_of(magnitude=2.0, total=1.0)
    assert (result.status, float(result), float(result.condition)) == ("ok", 4.0, 2.0)


def test_the_condition_decides_at_a_thousand():
    assert beta_eff.CONDITION_LIMIT == 1e3
    assert quotient_of(1.0, 1.01e-3).status == "ok"
    assert quotient_of(1.0, -1.01e-3).status == "ok"
    assert quotient_of(1.0, 0.99e-3).status == "ill_conditioned"
    assert quotient_of(1.0, -0.99e-3).status == "ill_conditioned"


def test_a_denominator_of_0_has_no_value():
    cancelled = quotient_of(1.0, 0.0)
    assert cancelled.status == "ill_conditioned"
    assert np.isnan(float(cancelled))
    assert np.isinf(float(cancelled.condition))


def test_0_by_0_is_converged():
    for tiny in (0.0, 1e-39):  # the smallest normal float32 is 1.2e-38
        result = quotient_of(tiny, tiny, tiny)
        assert (result.status, float(result), float(result.condition)) == ("converged", 0, 0)
    assert quotient_of(2e-38, 2e-38, 1e-38).status == "ok"


@pytest.mark.parametrize("bad", [(np.nan, np.nan, 1.0), (1.0, np.inf, 1.0), (1.0, 1.0, np.nan)])
def test_sums_that_are_not_finite_have_no_value(bad):
    result = quotient_of(*bad)
    assert result.status == "non_finite"
    assert np.isnan(float(result))


def test_small_gradients_do_not_underflow():
    """beta_eff of order 1e-30 is a number in float32, though its numerator is not."""
    tiny = jnp.full((2, 2), 1e-30, jnp.float32)
    total = jnp.asarray(-4e-30, jnp.float32)
    result = beta_eff.quotient(line_graph.Sums({2: tiny}, {2: -tiny}, total, -total))
    assert result.status == "ok"
    np.testing.assert_allclose(float(result), 1e-30, rtol=1e-6)


def test_ill_conditioned_network():
    """Two samples with opposite gradients: the signed sum cancels, the absolute one does not."""
    net = random_net(2, (4, 5, 4, 3, 2), 1)
    inputs = np.repeat(net.inputs, 2, axis=0)
    # softmax is nearly (1/2, 1/2), so that g^L = +-1/2
    kernels = [*net.kernels[:-1], np.linspace(-1e-9, 1e-9, 6).reshape(3, 2)]
    biases = [np.abs(b) + 1 for b in net.biases[:-1]] + [np.zeros(2)]
    with jax.enable_x64(True):
        results = values(kernels, biases, inputs, np.array([0, 1]))
    assert results["signed"].status == "ill_conditioned"
    assert float(results["signed"].condition) > beta_eff.CONDITION_LIMIT
    assert results["absolute"].status == "ok"


def test_overflow_is_reported():
    kernels, biases, inputs, labels = plain_net(2)
    results = values([k * np.float32(1e20) for k in kernels], biases, inputs, labels)
    for result in results.values():
        assert result.status == "non_finite"
        assert np.isnan(float(result))


def test_nan_under_jit_becomes_a_status():
    kernels, biases, inputs, labels = plain_net(4)
    for result in values(kernels, biases, inputs * np.float32(np.nan), labels).values():
        assert result.status == "non_finite"


def test_dead_network_is_converged():
    kernels, biases, inputs, labels = plain_net(2)
    biases = [*biases[:2], biases[2] - np.float32(1e6), biases[3]]
    results = values(kernels, biases, inputs, labels)
    for strength in ("signed", "absolute", "squared"):
        assert results[strength].status == "converged"


def test_looks_like_a_number():
    result = mlp_beta_eff(*plain_net(1))
    assert f"{result:.3f}" == f"{float(result.value):.3f}"
    assert "status=ok" in repr(result) == f"{result}"
    assert "code" in repr(jax.eval_shape(lambda r: r, result))


def test_jit_is_plain():
    """Compiled as a part of a program, called as it is, and evaluated operation by operation."""
    net = plain_net(4)
    jitted = values(*net)
    for strength in ("signed", "total"):  # two ways of measuring; the others share the first
        plain = mlp_beta_eff(*net, strength=strength)
        assert plain.status == jitted[strength].status == "ok"
        np.testing.assert_allclose(jitted[strength].value, plain.value, rtol=1e-5)
    with jax.disable_jit():
        eager = values(*net)
    for strength in STRENGTHS:
        assert eager[strength].status == "ok"
        np.testing.assert_allclose(eager[strength].value, jitted[strength].value, rtol=1e-5)


def test_vmap_over_models_is_a_loop(x64):
    nets = [plain_net(seed) for seed in range(3)]
    batched = jax.jit(jax.vmap(values))(*jax.tree.map(lambda *x: jnp.stack(x), *nets))
    looped = [values(*net) for net in nets]
    for strength in STRENGTHS:
        expected = [float(result[strength]) for result in looped]
        np.testing.assert_allclose(batched[strength].value, expected, rtol=1e-11)
        assert list(batched[strength].status) == [r[strength].status for r in looped]


def probe_arguments(
    seed: int, widths: Sequence[int] = WIDTHS, batch: int = BATCH
) -> tuple[Any, ...]:
    net = random_net(seed, widths, batch, plain=False)
    return net.kernels, net.biases, net.scales, net.shifts, net.inputs, net.labels


@pytest.mark.parametrize("seed", range(3))
def test_probe_against_the_oracle(x64, seed):
    kernels, biases, gammas, betas, features, labels = probe_arguments(seed)
    results = probe_beta_eff(*probe_arguments(seed), epsilon=1e-3)
    scales, shifts, z = [], [], features
    for index in range(3):
        a = z @ kernels[index] + biases[index]
        scales.append(gammas[index] / np.sqrt(a.var(axis=0) + 1e-3))
        shifts.append(betas[index] - scales[-1] * a.mean(axis=0))
        z = np.maximum(scales[-1] * a + shifts[-1], 0)
    assert set(results) == set(STRENGTHS)
    for strength, result in results.items():
        dense = reference.dense_adjacency(
            kernels, biases, features, labels, strength, scales, shifts
        )
        tolerance = 1e-12 * float(result.condition)
        np.testing.assert_allclose(result.value, reference.beta_eff(dense), rtol=tolerance)


def test_probe_strengths_are_those_asked_for(x64):
    results = probe_beta_eff(*probe_arguments(0), ("absolute", "signed"), epsilon=1e-3)
    everything = probe_beta_eff(*probe_arguments(0), epsilon=1e-3)
    assert set(results) == {"absolute", "signed"}
    for strength, result in results.items():
        assert_same(result, everything[strength])


def test_probe_vmapped_over_seeds_and_models(x64):
    grid = [[probe_arguments(3 * i + j) for j in range(3)] for i in range(2)]
    rows = [jax.tree.map(lambda *x: jnp.stack(x), *row) for row in grid]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)

    def probe(*arguments: Any) -> dict[str, BetaEff]:
        return probe_beta_eff(*arguments, epsilon=1e-3)

    batched = jax.jit(jax.vmap(jax.vmap(probe)))(*stacked)
    for i in range(2):
        for j in range(3):
            for strength, looped in probe(*grid[i][j]).items():
                value = batched[strength].value[i, j]
                np.testing.assert_allclose(value, looped.value, rtol=1e-10)
                assert batched[strength].status[i, j] == looped.status


def test_float32_against_float64():
    """The tolerance of docs/numerics.md, times the condition number."""
    for seed in range(4):
        arguments = probe_arguments(seed, (64, 48, 32, 16, 10), 256)
        single = probe_beta_eff(*arguments)
        with jax.enable_x64(True):
            double = probe_beta_eff(*arguments)
        for strength in STRENGTHS:
            assert single[strength].value.dtype == jnp.float32
            assert double[strength].value.dtype == jnp.float64
            error = abs(float(single[strength]) / float(double[strength]) - 1)
            assert error < 1e-5 * max(float(double[strength].condition), 1)


def test_narrow_dtypes_are_widened():
    kernels, biases, inputs, labels = plain_net(4)
    half = mlp_beta_eff(kernels, biases, inputs.astype(jnp.bfloat16), labels)
    assert half.value.dtype == jnp.float32


def test_bad_arrays_are_refused():
    """`checks` has the list; here it is asked, before anything is compiled."""
    net = random_net(4, WIDTHS, BATCH)
    with pytest.raises(KernelError) as error:
        mlp_beta_eff(net.kernels, net.biases, net.inputs, net.labels + 3)
    assert error.value.remedy == "Renumber the classes from 0 to 2"
    kernels, biases, gammas, betas, features, labels = probe_arguments(0)
    with pytest.raises(KernelError) as error:
        probe_beta_eff(kernels, biases, gammas, betas, features * np.nan, labels)
    assert error.value.cause == "NaN or infinite values in inputs: 24 of 24"
    with pytest.raises(KernelError) as error:
        probe_beta_eff(kernels, biases, gammas[:-1], betas, features, labels)
    assert error.value.cause == "gammas have shapes [(5,), (4,)], not [(5,), (4,), (3,)]"


def test_bad_names_are_refused():
    with pytest.raises(ConfigError) as error:
        mlp_beta_eff(*random_net(4, WIDTHS, BATCH).plain, strength="absolut")
    assert str(error.value) == "unknown strength 'absolut'. Did you mean absolute."
    with pytest.raises(ConfigError) as error:
        probe_beta_eff(*probe_arguments(0), strengths=("nothing",))
    assert error.value.cause == "unknown strength 'nothing'"


def test_nothing_widens_to_float64(x64):
    """float32 arguments stay float32 where float64 is enabled."""
    arguments = jax.tree.map(
        lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, probe_arguments(0)
    )
    program = jax.make_jaxpr(probe_beta_eff)(*arguments)
    assert "f32[" in str(program)
    assert "f64[" not in str(program).replace("f64[]", "")  # Python's scalars are cast, and folded
