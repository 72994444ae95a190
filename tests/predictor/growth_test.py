"""The law of growth: its equation, what it is fitted to, and the constants that are shipped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from experiments.tasks import growth_prior
from ncap_jax import errors
from ncap_jax.predictor import growth
from ncap_jax.types import HEADS, EpochRecord, Head, Trajectory

PRIOR = growth.Prior({"probe": 2.0, "linear": 0.5}, 0.7, 0.2)


def run(z, head: Head = "linear") -> Trajectory:
    """A run with these logits of accuracy."""
    records = (EpochRecord(k, 1.0, a, 1.0, a) for k, a in enumerate(expit(z).tolist()))
    return Trajectory("a", head, tuple(records))


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10])
def test_gain_of_a_logarithmic_curve_is_exact(epochs):
    z = -1.0 + 0.8 * np.log1p(np.arange(epochs + 1))
    pool = [run(z + 0.3), run(z - 0.3)]
    np.testing.assert_allclose(growth.gain(pool, PRIOR), 0.5 * 0.8, rtol=1e-9)
    probes = [dataclasses.replace(t, head="probe") for t in pool]
    np.testing.assert_allclose(growth.gain(probes, PRIOR), 2.0 * 0.8, rtol=1e-9)


def test_only_the_later_half_counts_and_a_fall_gains_nothing():
    late = 0.2 * np.log1p(np.arange(2, 6))
    z = np.concatenate([[-3.0, -2.0], late])
    np.testing.assert_allclose(growth.gain([run(z)], PRIOR), 0.5 * 0.2, rtol=1e-9)
    assert growth.gain([run(-z)], PRIOR) == 0.0
    assert growth.gain([run(z[:1])], PRIOR) is None
    assert growth.gain([], PRIOR) is None


def test_short_and_broken_runs_are_left_out_of_the_mean():
    z = -1.0 + 0.8 * np.log1p(np.arange(4))
    broken = run([0.0, 0.0, 0.0, np.nan])
    np.testing.assert_allclose(growth.gain([run(z), run(z[:2] * 3), broken], PRIOR), 0.4)


def test_fit_finds_the_law_that_made_the_runs():
    rng = np.random.default_rng(0)
    pools, finals = [], []
    for head, c in (("probe", 2.0), ("linear", 0.5)):
        for _ in range(4):
            b = rng.uniform(0.3, 1.0)
            z = -1.0 + b * np.log1p(np.arange(6))
            pools.append([run(z + shift, head) for shift in (0.2, -0.2)])
            # The end that is right for n = 5; before it more is left, by b ln(6 / (1 + n)).
            finals.append([float(expit(z[-1] + c * b + shift)) for shift in (0.2, -0.2)])
    found = growth.fit(pools, finals)
    left = [np.log(6 / (1 + n)) for n in growth.FITTED]
    np.testing.assert_allclose(found.growth["probe"], 2.0 + np.median(left), rtol=1e-6)
    np.testing.assert_allclose(found.growth["linear"], 0.5 + np.median(left), rtol=1e-6)
    assert found.own == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(errors.ConfigError, match="no pool"):
        growth.fit([], [])


def test_logits_are_held_at_the_edge():
    np.testing.assert_allclose(growth.clipped_logit(np.array([1.0])), logit(1 - growth.EDGE))


def test_the_constants_are_those_of_the_corpus():
    found = growth_prior()
    for head in HEADS:
        assert growth.PRIOR.growth[head] == pytest.approx(found.growth[head], abs=0.005)
    assert growth.PRIOR.spread == pytest.approx(found.spread, abs=0.005)
    assert growth.PRIOR.own == pytest.approx(found.own, abs=0.005)
