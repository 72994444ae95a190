"""The constants of the growth law: what they are fitted to, and those that are shipped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from experiments.tasks import growth_priors
from ncap_jax import errors
from ncap_jax.options import HEADS
from ncap_jax.predictor import growth, growth_fit
from ncap_jax.types import Trajectory
from tests.support.curves import run


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
    found = growth_fit.fit(pools, finals)
    left = [np.log(6 / (1 + n)) for n in growth_fit.FITTED_EPOCHS]
    np.testing.assert_allclose(found["probe"].growth, 2.0 + np.median(left), rtol=1e-6)
    np.testing.assert_allclose(found["linear"].growth, 0.5 + np.median(left), rtol=1e-6)
    # Nothing happens but the common gain.
    for prior in found.values():
        assert prior[2:5] == pytest.approx((0.0, 0.0, 0.0), abs=0.02)


def test_a_pool_that_overfits_gains_less_by_the_power_of_its_gap(monkeypatch: pytest.MonkeyPatch):
    """Where pools gain as (G1) says, c is the same whatever their gaps."""
    monkeypatch.setattr(growth_fit, "FITTED_EPOCHS", (5,))
    pools, finals = [], []
    for slope, gap in ((0.2, 0.5), (0.4, 0.9), (0.6, 0.1), (0.8, 0.3)):
        z = -3.0 + slope * np.log1p(np.arange(6))
        pools.append([run(z + shift, gap=gap) for shift in (0.2, -0.2)])
        gain = 0.3 * slope / gap**0.4
        finals.append([float(expit(z[-1] + gain + shift)) for shift in (0.2, -0.2)])
    found = growth_fit.fit(pools, finals)["linear"]
    assert found.growth == pytest.approx(0.3, rel=1e-6)
    assert found.spread == pytest.approx(0.0, abs=0.02)


def test_pools_that_say_nothing_of_growth_are_refused():
    with pytest.raises(errors.ConfigError) as error:
        growth_fit.fit([[run([1.0] * 6)]], [[0.5]])
    assert error.value.cause == "no pool with head 'linear' gains accuracy with training"
    assert error.value.remedy == "Give pools whose accuracy grows with training"
    with pytest.raises(errors.ConfigError) as error:
        growth_fit.fit([], [])
    assert error.value.cause == "no pool of finished runs to fit the growth law to"
    assert error.value.remedy == "Give at least one for each head"


def test_fit_finds_how_leads_shrink(monkeypatch):
    """(G2) with k = 0.7, where all curves have the slope 0.5 and c = 2: a gain of 1.

    The climb so far is 0.5 ln 6, so u = 1.5 / (1.5 + 0.5 ln 6).
    """
    pools, finals = [], []
    for lead in (0.1, 0.5):
        z = -2.0 + 0.5 * np.log1p(np.arange(6))
        pools.append([run(z + lead, "linear"), run(z - lead, "linear")])
        left = lead * np.exp(-0.7 * np.sqrt(1.5 / (1.5 + 0.5 * np.log(6))))
        finals.append([float(expit(z[-1] + 1.0 + side)) for side in (left, -left)])
    # After five epochs 1 is left to gain.
    monkeypatch.setattr(growth_fit, "FITTED_EPOCHS", (5,))
    found = growth_fit.fit(pools, finals)["linear"]
    assert found.growth == pytest.approx(2.0, rel=1e-6)
    assert found.shrink == pytest.approx(0.7, abs=1e-3)
    assert (found.own, found.scatter) == pytest.approx((0.0, 0.0), abs=0.02)


def test_fit_finds_the_scatter_that_was_added(monkeypatch):
    """100 pools whose models end as (G2) says, with own = 0.2, k = 0.4 and q = 0.8."""
    monkeypatch.setattr(growth_fit, "FITTED_EPOCHS", (5,))
    law = growth.Prior(2.0, 0.0, own=0.2, shrink=0.4, scatter=0.8, unforeseen=0.0)
    rng = np.random.default_rng(1)
    pools, finals = [], []
    for _ in range(100):
        slope, apart = rng.uniform(0.1, 1.0), rng.uniform(0.05, 0.8)
        z = -3.0 + slope * np.log1p(np.arange(6))
        leads, left, noise = drawn_leads(rng, law, z, 2.0 * slope, apart)
        pools.append([run(z + lead) for lead in leads])
        finals.append(expit(z[-1] + 2.0 * slope + left + noise - noise.mean()).tolist())
    found = growth_fit.fit(pools, finals)["linear"]
    assert found.growth == pytest.approx(2.0, rel=0.02)
    # 4,000 models: a standard deviation is known to about 1 %, each of two in one sum to 5 %; the
    # mean that is taken off forty of them makes both 1.3 % smaller.
    assert found[2:5] == pytest.approx((0.2, 0.4, 0.8), rel=0.1)


def test_fit_finds_by_how_much_pools_that_have_hardly_risen_are_misjudged():
    """400 pools whose gains miss (G1) by Student's t of scale 1.2 u², beside four exact ones."""
    rng, models = np.random.default_rng(3), np.array([0.1, -0.1])
    leads = [
        growth_fit.Leads(b, 1.0, 60.0, 2.0 * b, models, models, 0.0) for b in (0.2, 0.4, 0.6, 0.8)
    ]
    for rise in rng.uniform(0.0, 0.5, 400).tolist():
        slope = 0.02  # too flat to count for c and r
        ahead = growth.share_ahead(2.0 * slope, rise)
        off = 1.2 * ahead**2 * rng.standard_t(growth.FREEDOM)
        leads.append(growth_fit.Leads(slope, 1.0, rise, 2.0 * slope + off, models, models, 0.0))
    found = growth_fit.fit_head("linear", leads)
    assert found.growth == pytest.approx(2.0)
    # Their gains, 0.04, are too small to tell a share r of them from nothing.
    assert found.spread * 0.04 < 0.05
    # Of 400 draws a scale is known to about 5 %.
    assert found.unforeseen == pytest.approx(1.2, rel=0.15)


def test_the_luck_of_the_images_is_told_from_the_scatter(monkeypatch):
    """As above, of 60 validation images: without their number the luck counts as own."""
    monkeypatch.setattr(growth_fit, "FITTED_EPOCHS", (5,))
    law = growth.Prior(2.0, 0.0, own=0.1, shrink=0.4, scatter=0.5, unforeseen=0.0)
    rng, images = np.random.default_rng(2), 60
    pools, finals = [], []
    for _ in range(60):
        slope, apart = rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.8)
        z = -1.0 + slope * np.log1p(np.arange(6))
        leads, left, noise = drawn_leads(rng, law, z, 2.0 * slope, apart)
        finals.append(expit(z[-1] + 2.0 * slope + left + noise).tolist())
        seen = rng.binomial(images, expit(z + leads[:, None])) / images
        pools.append([run(growth.clipped_logit(row), images=images) for row in seen])
    found = growth_fit.fit(pools, finals)["linear"]
    plain = growth_fit.fit([[run(logit_of(t)) for t in pool] for pool in pools], finals)["linear"]
    assert found.scatter == pytest.approx(law.scatter, rel=0.2)
    assert found.own < 0.1 < 0.15 < plain.own


def drawn_leads(
    rng: np.random.Generator, law: growth.Prior, z: np.ndarray, gain: float, apart: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of 40 models around the curve z: their leads, what is left of them by (G2), and its e."""
    values = rng.normal(size=40)
    leads, rise = apart * (values - values.mean()) / values.std(), float(z[-1] - z[0])
    scale = growth.scatter(law, gain, growth.own_rises(rise, leads), apart)
    noise = scale * rng.standard_t(growth.FREEDOM, size=40)
    return leads, leads * growth.lead_left(law, gain, rise), noise


def logit_of(trajectory: Trajectory) -> np.ndarray:
    """Its curve, without the number of images."""
    return growth.clipped_logit(trajectory.series("validation_accuracy"))


def test_the_constants_are_those_of_the_corpus():
    found = growth_priors()
    assert set(growth.PRIORS) == set(HEADS)
    for head in HEADS:
        assert tuple(growth.PRIORS[head]) == pytest.approx(tuple(found[head]), abs=0.005)
