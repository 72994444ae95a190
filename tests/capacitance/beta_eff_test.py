"""The public MLP forms: facts of the method, statuses, refusals, jit and vmap."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncap_jax.capacitance import beta_eff, line_graph, reference
from ncap_jax.capacitance.beta_eff import BetaEff, mlp_beta_eff, probe_beta_eff
from ncap_jax.errors import ConfigError, KernelError
from ncap_jax.types import STRENGTHS
from tests.capacitance.nets import random_net

WIDTHS = (4, 5, 4, 3, 3)  # one shape, so that the property tests compile once a strength


def values(net_arguments, alpha=1.0) -> dict[str, BetaEff]:
    return {s: mlp_beta_eff(*net_arguments, strength=s, alpha=alpha) for s in STRENGTHS}


def assert_same(first: BetaEff, second: BetaEff, rtol=1e-11):
    """Equal up to rounding, which the condition number amplifies."""
    assert first.status == second.status
    tolerance = rtol * max(float(first.condition), 1.0)
    np.testing.assert_allclose(first.value, second.value, rtol=tolerance, atol=1e-14)


seeds = st.integers(0, 2**16)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, layer=st.integers(0, 2))
def test_permuting_hidden_units_changes_nothing(seed, layer):
    net = random_net(seed, WIDTHS, 6)
    order = np.random.default_rng(seed).permutation(WIDTHS[layer + 1])
    kernels, biases = list(net.kernels), list(net.biases)
    kernels[layer], biases[layer] = kernels[layer][:, order], biases[layer][order]
    kernels[layer + 1] = kernels[layer + 1][order]
    with jax.enable_x64(True):
        before, after = values(net.plain), values((kernels, biases, net.inputs, net.labels))
        for strength in STRENGTHS:
            assert_same(before[strength], after[strength])


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_duplicating_the_data_changes_nothing(seed):
    net = random_net(seed, WIDTHS, 6)
    twice = np.concatenate([net.inputs, net.inputs]), np.concatenate([net.labels, net.labels])
    with jax.enable_x64(True):
        before, after = values(net.plain), values((net.kernels, net.biases, *twice))
        for strength in STRENGTHS:
            assert_same(before[strength], after[strength])


@settings(max_examples=10, deadline=None)
@given(seed=seeds, alpha=st.floats(1e-3, 1e3))
def test_learning_rate_scales_linearly_and_quadratically(seed, alpha):
    net = random_net(seed, WIDTHS, 6)
    with jax.enable_x64(True):
        for strength, result in values(net.plain, alpha).items():
            dense = reference.dense_adjacency(*net.plain, strength, alpha=alpha)
            one = mlp_beta_eff(*net.plain, strength=strength)
            power = 2 if strength == "squared" else 1
            np.testing.assert_allclose(result.value, one.value * alpha**power, rtol=1e-12)
            if result.status == "ok":
                tolerance = 1e-12 * float(result.condition)
                np.testing.assert_allclose(result.value, reference.beta_eff(dense), rtol=tolerance)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_gradients_to_zero_take_beta_eff_to_zero(seed):
    """Theorem 1 of the paper: P is linear in g and vanishes with it."""
    net = random_net(seed, WIDTHS, 6)
    with jax.enable_x64(True):
        kernels, biases, inputs, _ = net.plain
        # Labels as the network predicts them; larger logits bring g to 0 and leave z and s alone.
        z, _, _ = reference.mlp_states(kernels, biases, inputs, net.labels)
        logits = z[-1] @ kernels[-1] + biases[-1]
        labels = logits.argmax(axis=1)
        margin = np.partition(logits, -2, axis=1)
        gap = np.min(margin[:, -1] - margin[:, -2])
        sizes = []
        for factor in (1.0, 30 / gap, 60 / gap, 1e6 / gap):
            scaled = [*kernels[:-1], kernels[-1] * factor], [*biases[:-1], biases[-1] * factor]
            sizes.append(mlp_beta_eff(*scaled, inputs, labels, strength="absolute"))
        assert abs(float(sizes[1])) < 1e-6 or sizes[1].status == "converged"
        assert abs(float(sizes[2])) <= abs(float(sizes[1]))
        last = values((*scaled, inputs, labels))
        for strength in ("signed", "absolute", "squared"):
            assert last[strength].status == "converged"
            assert float(last[strength]) == 0


def test_statuses_by_name():
    def status(magnitude, total, degree=1.0):
        one = jnp.full((2, 2), degree)
        sums = line_graph.Sums({2: one}, {2: one}, jnp.asarray(total), jnp.asarray(magnitude))
        return beta_eff.quotient(sums)

    assert status(2.0, 1.0).status == "ok"
    assert float(status(2.0, 1.0)) == 4.0
    assert status(2.0, 1.0).condition == 2.0
    assert status(1.0, 0.99e-3).status == "ill_conditioned"
    assert status(1.0, 1.01e-3).status == "ok"
    cancelled = status(1.0, 0.0)
    assert cancelled.status == "ill_conditioned"
    assert np.isnan(float(cancelled))
    assert np.isinf(float(cancelled.condition))
    converged = status(0.0, 0.0, 0.0)
    assert (converged.status, float(converged), float(converged.condition)) == ("converged", 0, 0)
    for bad in (status(np.nan, np.nan), status(1.0, np.inf), status(1.0, 1.0, np.nan)):
        assert bad.status == "non_finite"
        assert np.isnan(float(bad))


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
    kernels = [*net.kernels[:-1], net.kernels[-1] * 0]  # softmax is (1/2, 1/2): g^L = +-1/2
    kernels[-1] = np.linspace(-1e-9, 1e-9, 6).reshape(3, 2)
    biases = [np.abs(b) + 1 for b in net.biases[:-1]] + [np.zeros(2)]
    with jax.enable_x64(True):
        signed = mlp_beta_eff(kernels, biases, inputs, np.array([0, 1]))
        assert signed.status == "ill_conditioned"
        assert float(signed.condition) > beta_eff.CONDITION_LIMIT
        assert mlp_beta_eff(kernels, biases, inputs, np.array([0, 1]), "absolute").status == "ok"


def test_overflow_is_reported():
    net = random_net(2, WIDTHS, 5)
    kernels = [k.astype(np.float32) * np.float32(1e20) for k in net.kernels]
    result = mlp_beta_eff(kernels, net.biases, net.inputs.astype(np.float32), net.labels)
    assert result.status == "non_finite"
    assert np.isnan(float(result))


def test_dead_network_is_converged():
    net = random_net(2, WIDTHS, 5)
    biases = [*net.biases[:2], net.biases[2] - 1e6, net.biases[3]]
    for strength in ("signed", "absolute", "squared"):
        result = mlp_beta_eff(net.kernels, biases, net.inputs, net.labels, strength)
        assert result.status == "converged"


def test_looks_like_a_number():
    result = mlp_beta_eff(*random_net(1, WIDTHS, 5).plain)
    assert f"{result:.3f}" == f"{float(result.value):.3f}"
    assert "status=ok" in repr(result) == f"{result}"
    assert "code" in repr(jax.eval_shape(lambda r: r, result))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_jit_is_plain(strength):
    net = random_net(4, WIDTHS, 6)
    plain = mlp_beta_eff(*net.plain, strength=strength)
    jitted = jax.jit(lambda *a: mlp_beta_eff(*a, strength=strength))(*net.plain)
    with jax.disable_jit():
        eager = mlp_beta_eff(*net.plain, strength=strength)
    assert jitted.status == plain.status == eager.status
    np.testing.assert_allclose(jitted.value, plain.value, rtol=1e-5)
    np.testing.assert_allclose(eager.value, plain.value, rtol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_vmap_over_models_is_a_loop(x64, strength):
    nets = [random_net(seed, WIDTHS, 6) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(net.plain for net in nets))
    batched = jax.vmap(lambda *a: mlp_beta_eff(*a, strength=strength))(*stacked)
    looped = [mlp_beta_eff(*net.plain, strength=strength) for net in nets]
    np.testing.assert_allclose(batched.value, [float(r) for r in looped], rtol=1e-11)
    assert list(batched.status) == [r.status for r in looped]


def probe_arguments(seed, widths=WIDTHS, batch=7):
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
    for strength, result in results.items():
        dense = reference.dense_adjacency(
            kernels, biases, features, labels, strength, scales, shifts
        )
        tolerance = 1e-12 * float(result.condition)
        np.testing.assert_allclose(result.value, reference.beta_eff(dense), rtol=tolerance)


def test_probe_strengths_are_those_asked_for():
    results = probe_beta_eff(*probe_arguments(0), strengths=("absolute", "signed"))
    everything = probe_beta_eff(*probe_arguments(0))
    assert set(results) == {"absolute", "signed"}
    for strength, result in results.items():
        np.testing.assert_allclose(result.value, everything[strength].value, rtol=1e-4)


def test_probe_vmapped_over_seeds_and_models(x64):
    grid = [[probe_arguments(3 * i + j) for j in range(3)] for i in range(2)]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    stacked = stack([stack(row) for row in grid])
    batched = jax.jit(jax.vmap(jax.vmap(probe_beta_eff)))(*stacked)
    for i in range(2):
        for j in range(3):
            for strength, looped in probe_beta_eff(*grid[i][j]).items():
                value = batched[strength].value[i, j]
                np.testing.assert_allclose(value, looped.value, rtol=1e-10)
                assert batched[strength].status[i, j] == looped.status


@pytest.mark.parametrize("strength", STRENGTHS)
def test_float32_against_float64(strength):
    """The tolerance of docs/numerics.md, times the condition number."""
    for seed in range(4):
        arguments = probe_arguments(seed, (64, 48, 32, 16, 10), 256)
        single = probe_beta_eff(*arguments, strengths=(strength,))[strength]
        with jax.enable_x64(True):
            double = probe_beta_eff(*arguments, strengths=(strength,))[strength]
        assert single.value.dtype == jnp.float32
        assert double.value.dtype == jnp.float64
        error = abs(float(single) / float(double) - 1)
        assert error < 1e-5 * max(float(double.condition), 1)


def test_narrow_dtypes_are_widened():
    net = random_net(4, WIDTHS, 6)
    half = mlp_beta_eff(net.kernels, net.biases, jnp.asarray(net.inputs, jnp.bfloat16), net.labels)
    assert half.value.dtype == jnp.float32


BAD = {
    "two hidden layers": (lambda n: (n.kernels[1:], n.biases[1:], n.inputs, n.labels), "hidden"),
    "no layer": (lambda n: ([], [], n.inputs, n.labels), "hidden"),
    "label too large": (lambda n: (*n.plain[:3], n.labels + 3), "Renumber"),
    "label negative": (lambda n: (*n.plain[:3], n.labels - 1), "Renumber"),
    "one-hot labels": (lambda n: (*n.plain[:3], np.eye(3)[n.labels]), "one-hot"),
    "too few labels": (lambda n: (*n.plain[:3], n.labels[:-1]), "one label a sample"),
    "NaN weights": (lambda n: ([n.kernels[0] * np.nan, *n.kernels[1:]], *n.plain[1:]), "NaN"),
    "infinite bias": (lambda n: (n.kernels, [n.biases[0] / 0, *n.biases[1:]], *n.plain[2:]), "inf"),
    "NaN inputs": (lambda n: (*n.plain[:2], n.inputs * np.nan, n.labels), "inputs has"),
    "empty batch": (lambda n: (*n.plain[:2], n.inputs[:0], n.labels[:0]), "empty"),
    "integer inputs": (lambda n: (*n.plain[:2], n.inputs.astype(int), n.labels), "floating"),
    "one sample": (lambda n: (*n.plain[:2], n.inputs[0], n.labels), "batch"),
    "images": (lambda n: (*n.plain[:2], n.inputs[:, :, None], n.labels), "Flatten"),
    "transposed": (lambda n: ([k.T for k in n.kernels], *n.plain[1:]), "transpose"),
    "wrong bias": (lambda n: (n.kernels, [*n.biases[:-1], n.biases[0]], *n.plain[2:]), "bias 4"),
    "missing bias": (lambda n: (n.kernels, n.biases[:-1], *n.plain[2:]), "biases"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input_is_refused(name):
    change, words = BAD[name]
    with pytest.raises(KernelError, match=words) as caught:
        mlp_beta_eff(*change(random_net(4, (4, 5, 4, 3, 3), 6)))
    assert caught.value.remedy


def test_bad_names_are_refused():
    with pytest.raises(ConfigError, match="absolute"):
        mlp_beta_eff(*random_net(4, WIDTHS, 6).plain, strength="absolut")
    with pytest.raises(ConfigError, match="strength"):
        probe_beta_eff(*probe_arguments(0), strengths=("nothing",))


def test_bad_batch_norm_is_refused():
    kernels, biases, gammas, betas, features, labels = probe_arguments(0)
    with pytest.raises(KernelError, match="gammas"):
        probe_beta_eff(kernels, biases, gammas[:-1], betas, features, labels)
    with pytest.raises(KernelError, match="betas"):
        probe_beta_eff(kernels, biases, gammas, betas[::-1], features, labels)


def test_nan_under_jit_becomes_a_status():
    net = random_net(4, WIDTHS, 6)
    measure = jax.jit(mlp_beta_eff, static_argnames="strength")
    assert measure(net.kernels, net.biases, net.inputs * np.nan, net.labels).status == "non_finite"
