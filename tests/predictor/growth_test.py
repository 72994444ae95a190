"""The law of growth: its equation, what it is fitted to, and the constants that are shipped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from experiments.tasks import growth_priors
from ncap_jax import errors
from ncap_jax.options import HEADS, Head
from ncap_jax.predictor import growth
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

PRIOR = growth.Prior(0.5, spread=0.7, own=0.2, shrink=0.0, scatter=0.0, unforeseen=1.5)


def run(
    z, head: Head = "linear", images: int | None = None, epoch_steps: int | None = None
) -> Trajectory:
    """A run with these logits of accuracy; images that validate and steps where they are known."""
    counts = None if images is None else ClassCounts((images,), ((0,),), ((0,),))
    records = (
        EpochRecord(
            k,
            *(1.0, a, 1.0, a),
            validation_counts=counts,
            steps=None if epoch_steps is None else k * epoch_steps,
        )
        for k, a in enumerate(expit(z).tolist())
    )
    return Trajectory("a", head, tuple(records))


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10])
def test_gain_of_a_logarithmic_curve_is_exact(epochs):
    z = -1.0 + 0.8 * np.log1p(np.arange(epochs + 1))
    pool = [run(z + 0.3), run(z - 0.3)]
    np.testing.assert_allclose(growth.gain(pool, PRIOR), 0.5 * 0.8, rtol=1e-9)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_steps_count_and_not_epochs(epochs):
    """The same steps in longer epochs: as many e-foldings, so the same gain."""
    steps = 313 * np.arange(epochs + 1)
    z = -1.0 + 0.8 * np.log1p(steps / growth.UNIT_STEPS)
    assert growth.gain([run(z, epoch_steps=313)], PRIOR) == pytest.approx(0.5 * 0.8)
    # If epochs are thought to be as short as the unit, they seem to gain more.
    assert growth.gain([run(z)], PRIOR) > 1.2 * 0.5 * 0.8
    assert growth.gain([run(z, epoch_steps=16)], PRIOR) == growth.gain([run(z)], PRIOR)


def test_epochs_of_an_earlier_version_count_as_the_unit():
    """A run that an earlier version began, whose records did not count steps."""
    z = -1.0 + 0.8 * np.log1p(np.arange(4))
    old, new = run(z), run(z, epoch_steps=313)
    resumed = Trajectory("a", "linear", (*old.records[:2], *new.records[2:]))
    assert growth.training_steps(resumed).tolist() == [0, 16, 32, 48]
    assert growth.gain([resumed], PRIOR) == growth.gain([old], PRIOR)


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
    left = [np.log(6 / (1 + n)) for n in growth.FITTED_EPOCHS]
    np.testing.assert_allclose(found["probe"].growth, 2.0 + np.median(left), rtol=1e-6)
    np.testing.assert_allclose(found["linear"].growth, 0.5 + np.median(left), rtol=1e-6)
    # Nothing happens but the common gain.
    for prior in found.values():
        assert prior[2:5] == pytest.approx((0.0, 0.0, 0.0), abs=0.02)


def test_pools_that_say_nothing_of_growth_are_refused():
    with pytest.raises(errors.ConfigError) as error:
        growth.fit([[run([1.0] * 6)]], [[0.5]])
    assert error.value.cause == "no pool with head 'linear' gains accuracy with training"
    assert error.value.remedy == "Give pools whose accuracy grows with training"
    with pytest.raises(errors.ConfigError) as error:
        growth.fit([], [])
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
    monkeypatch.setattr(growth, "FITTED_EPOCHS", (5,))  # what is left to gain is 1 after 5 epochs
    found = growth.fit(pools, finals)["linear"]
    assert found.growth == pytest.approx(2.0, rel=1e-6)
    assert found.shrink == pytest.approx(0.7, abs=1e-3)
    assert (found.own, found.scatter) == pytest.approx((0.0, 0.0), abs=0.02)


def test_fit_finds_the_scatter_that_was_added(monkeypatch):
    """100 pools whose models end as (G2) says, with own = 0.2, k = 0.4 and q = 0.8."""
    monkeypatch.setattr(growth, "FITTED_EPOCHS", (5,))
    law = growth.Prior(2.0, 0.0, own=0.2, shrink=0.4, scatter=0.8, unforeseen=0.0)
    rng = np.random.default_rng(1)
    pools, finals = [], []
    for _ in range(100):
        slope, apart = rng.uniform(0.1, 1.0), rng.uniform(0.05, 0.8)
        z = -3.0 + slope * np.log1p(np.arange(6))
        leads = apart * standard(rng.normal(size=40))
        gain = 2.0 * slope
        rise = z[-1] - z[0]
        scale = growth.scatter(law, gain, growth.own_rises(rise, leads), apart)
        noise = scale * rng.standard_t(growth.FREEDOM, size=40)
        end = z[-1] + gain + leads * growth.lead_left(law, gain, rise) + noise - noise.mean()
        pools.append([run(z + lead) for lead in leads])
        finals.append(expit(end).tolist())
    found = growth.fit(pools, finals)["linear"]
    assert found.growth == pytest.approx(2.0, rel=0.02)
    # 4,000 models: a standard deviation is known to about 1 %, each of two in one sum to 5 %; the
    # mean that is taken off forty of them makes both 1.3 % smaller.
    assert found[2:5] == pytest.approx((0.2, 0.4, 0.8), rel=0.1)


def test_fit_finds_by_how_much_pools_that_have_hardly_risen_are_misjudged():
    """400 pools whose gains miss (G1) by Student's t of scale 1.2 u², beside four exact ones."""
    rng, models = np.random.default_rng(3), np.array([0.1, -0.1])
    leads = [growth.Leads(b, 60.0, 2.0 * b, models, models, 0.0) for b in (0.2, 0.4, 0.6, 0.8)]
    for rise in rng.uniform(0.0, 0.5, 400).tolist():
        slope = 0.02  # too flat to count for c and r
        ahead = growth.share_ahead(2.0 * slope, rise)
        off = 1.2 * ahead**2 * rng.standard_t(growth.FREEDOM)
        leads.append(growth.Leads(slope, rise, 2.0 * slope + off, models, models, 0.0))
    found = growth.fit_head("linear", leads)
    assert found.growth == pytest.approx(2.0)
    # Their gains, 0.04, are too small to tell a share r of them from nothing.
    assert found.spread * 0.04 < 0.05
    # Of 400 draws a scale is known to about 5 %.
    assert found.unforeseen == pytest.approx(1.2, rel=0.15)


def test_a_gain_is_the_less_sure_the_less_of_the_climb_was_seen():
    """(G4): both parts, as written; and the whole at u = 1."""
    ahead = (0.4 + 0.5) / (0.4 + 1.1 + 0.5)
    expected = np.sqrt(2 * (0.7 * 0.4) ** 2 + 2 * (1.5 * ahead**2) ** 2)
    assert growth.gain_error(PRIOR, 0.4, 1.1, 2.0) == pytest.approx(expected, rel=1e-12)
    assert growth.gain_error(PRIOR, 0.0, 0.0, -2.0) == pytest.approx(1.5 * np.sqrt(2), rel=1e-12)
    assert growth.gain_error(PRIOR, 0.4, 5.0, 2.0) < growth.gain_error(PRIOR, 0.4, 1.1, 2.0)
    # At the top there is no room: half a logit below it half is left.
    top = float(logit(1 - growth.EDGE))
    assert growth.gain_error(PRIOR, 0.0, 0.0, top) == 0.0
    below = growth.gain_error(PRIOR, 0.0, 0.0, top - 0.5)
    assert below == pytest.approx(0.75 * np.sqrt(2), rel=1e-12)


def test_the_luck_of_the_images_is_told_from_the_scatter(monkeypatch):
    """As above, of 60 validation images: without their number the luck counts as own."""
    monkeypatch.setattr(growth, "FITTED_EPOCHS", (5,))
    law = growth.Prior(2.0, 0.0, own=0.1, shrink=0.4, scatter=0.5, unforeseen=0.0)
    rng, images = np.random.default_rng(2), 60
    pools, finals = [], []
    for _ in range(60):
        slope, apart = rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.8)
        z = -1.0 + slope * np.log1p(np.arange(6))
        leads = apart * standard(rng.normal(size=40))
        gain = 2.0 * slope
        rise = z[-1] - z[0]
        spread = growth.scatter(law, gain, growth.own_rises(rise, leads), apart)
        noise = spread * rng.standard_t(growth.FREEDOM, size=40)
        end = z[-1] + gain + leads * growth.lead_left(law, gain, rise) + noise
        finals.append(expit(end).tolist())
        seen = rng.binomial(images, expit(z + leads[:, None])) / images
        pools.append([run(growth.clipped_logit(row), images=images) for row in seen])
    found = growth.fit(pools, finals)["linear"]
    plain = growth.fit([[run(logit_of(t)) for t in pool] for pool in pools], finals)["linear"]
    assert found.scatter == pytest.approx(law.scatter, rel=0.2)
    assert found.own < 0.1 < 0.15 < plain.own


def standard(values: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1."""
    return (values - values.mean()) / values.std()


def logit_of(trajectory: Trajectory) -> np.ndarray:
    """Its curve, without the number of images."""
    return growth.clipped_logit(trajectory.series("validation_accuracy"))


@pytest.mark.parametrize(("share", "images"), [(0.3, 1000), (0.9, 2000), (0.5, 300)])
def test_the_noise_of_the_images_is_that_of_the_binomial(share: float, images: int):
    drawn = np.random.default_rng(0).binomial(images, share, size=200_000) / images
    # 200,000 draws know a variance to 0.3 %; the first order misses terms of 1 / (m p (1 - p)).
    assert growth.image_noise(np.array([share]), images) == pytest.approx(
        np.var(logit(drawn)), rel=0.03
    )


def test_the_noise_of_the_images_of_a_pool_is_the_mean_and_always_finite():
    one, other = (growth.image_noise(np.array([a]), 40) for a in (0.0, 0.5))
    assert growth.image_noise(np.array([0.0, 0.5]), 40) == pytest.approx((one + other) / 2)
    assert np.isfinite(one)
    assert growth.image_noise(np.array([0.5]), None) == 0.0


def test_what_of_a_spread_is_no_luck():
    assert growth.without_luck(0.25, 0.0) == 0.5  # many images
    assert growth.without_luck(0.5, 0.1) ** 2 == pytest.approx(0.4)
    # Models that differ by less than luck alone makes them: half of it is still no luck.
    assert growth.without_luck(0.05, 0.1) ** 2 == pytest.approx(0.025)


def test_leads_are_drawn_in_by_what_is_gained_and_ahead():
    law = PRIOR._replace(shrink=1.2)
    assert growth.lead_left(law, 0.0, 0.0) == 1.0  # a pool that gains nothing
    assert growth.lead_left(law, 1.0, 0.0) == pytest.approx(np.exp(-1.2))  # all is ahead
    assert growth.lead_left(law, 1.0, 4.5) == pytest.approx(np.exp(-1.2 * 0.5))  # a quarter


def test_who_has_climbed_further_is_surer():
    law = PRIOR._replace(own=0.1, scatter=0.8)
    rises = growth.own_rises(1.0, np.array([-2.0, 0.0, 2.0]))
    assert rises.tolist() == [1.0, 1.0, 3.0]
    low, pool, high = growth.scatter(law, 0.5, rises, 0.4)
    assert low == pool == pytest.approx(np.hypot(0.1, 0.8 * 0.4 / 2))
    assert high == pytest.approx(np.hypot(0.1, 0.8 * 0.4 / 4))


def test_the_last_model_is_no_surer_and_no_less_sure_than_the_pool():
    """Else a model far behind would have a better chance of being the best than one in between."""
    law, leads = PRIOR._replace(scatter=0.9), np.array([1.5, 0.5, -0.5, -1.5])
    scales = growth.scatter(law, 0.5, growth.own_rises(1.0, leads), 1.1)
    assert np.all(np.diff(scales) >= 0)
    assert scales[-1] == growth.scatter(law, 0.5, np.array([1.0]), 1.1)[0]


def test_what_is_ahead():
    assert growth.share_ahead(0.0, 0.0) == 1.0  # not begun
    assert growth.share_ahead(0.0, 4.5) == pytest.approx(0.1)
    assert growth.share_ahead(2.0, -1.0) == 1.0  # a fall is no climb
    assert growth.share_ahead(1.0, 1.5) == pytest.approx(0.5)


def test_logits_are_held_at_the_edge():
    np.testing.assert_allclose(growth.clipped_logit(np.array([1.0])), logit(1 - growth.EDGE))


def test_the_constants_are_those_of_the_corpus():
    found = growth_priors()
    assert set(growth.PRIORS) == set(HEADS)
    for head in HEADS:
        assert tuple(growth.PRIORS[head]) == pytest.approx(tuple(found[head]), abs=0.005)
