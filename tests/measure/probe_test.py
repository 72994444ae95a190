"""beta_eff of stacked probes, as the records hold it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.capacitance import reference
from ncap_jax.capacitance.beta_eff import BetaEff
from ncap_jax.measure.probe import as_records, measure_probes
from ncap_jax.types import STRENGTHS
from ncap_jax.zoo import probe

SAMPLES, PROBES, CLASSES = 20, 2, 3


def dense(params, features, labels, strength):
    """beta_eff and condition from a dense P in float64, batch norm over these features."""
    kernels, biases, gammas, betas = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), probe.probe_arrays(params)
    )
    scales, shifts, z = [], [], np.asarray(features, np.float64)
    for kernel, bias, gamma, beta in zip(kernels, biases, gammas, betas):
        a = z @ kernel + bias
        scales.append(gamma / np.sqrt(a.var(axis=0) + probe.EPSILON))
        shifts.append(beta - scales[-1] * a.mean(axis=0))
        z = np.maximum(scales[-1] * a + shifts[-1], 0)
    p = reference.dense_adjacency(kernels, biases, features, labels, strength, scales, shifts)
    return reference.beta_eff(p), np.abs(p).sum() / abs(p.sum())


@pytest.fixture(scope="module")
def case():
    """Two probes with offsets and gains, features and labels."""
    rng = np.random.default_rng(0)
    _, params, _ = probe.make_probes(4, CLASSES, (6, 5, 4), num_probes=PROBES)
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params
    )
    features = jnp.asarray(rng.normal(size=(SAMPLES, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, SAMPLES), jnp.int32)
    return params, features, labels, measure_probes(params, features, labels)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_each_probe_has_the_value_of_its_dense_p(case, strength):
    params, features, labels, (values, statuses) = case
    assert set(values) == set(statuses) == set(STRENGTHS)
    assert len(values[strength]) == len(set(values[strength])) == PROBES
    for number in range(PROBES):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], params)
        expected, condition = dense(one, features, labels, strength)
        # docs/numerics.md: 1e-5 times the condition in float32.
        assert values[strength][number] == pytest.approx(expected, rel=1e-5 * max(condition, 1))
        assert statuses[strength][number] == "ok"


def test_a_probe_that_is_not_finite_says_so_alone(case):
    params, features, labels, (healthy, _) = case
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), params)
    values, statuses = measure_probes(broken, features, labels)
    for strength in STRENGTHS:
        assert values[strength][0] == pytest.approx(healthy[strength][0])
        assert np.isnan(values[strength][1])
        assert statuses[strength] == ("ok", "non_finite")


def test_records_hold_plain_numbers_and_names():
    alone = BetaEff(jnp.float32(0.5), jnp.int32(0), jnp.float32(1.0))
    stacked = BetaEff(jnp.array([0.25, jnp.nan]), jnp.array([1, 3]), jnp.ones(2))
    values, statuses = as_records({"signed": alone, "absolute": stacked})
    assert values["signed"] == (0.5,)
    assert repr(values["absolute"]) == "(0.25, nan)"
    assert statuses == {"signed": ("ok",), "absolute": ("ill_conditioned", "non_finite")}
    assert {type(value) for row in values.values() for value in row} == {float}
    assert {type(name) for row in statuses.values() for name in row} == {str}
