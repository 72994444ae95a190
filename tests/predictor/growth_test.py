"""The law of growth: its equations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from ncap_jax.predictor import growth
from ncap_jax.types import Trajectory
from tests.support.curves import run

PRIOR = growth.Prior(0.5, spread=0.7, own=0.2, shrink=0.0, scatter=0.0, unforeseen=1.5)


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
    assert growth.gain([run(z, epoch_steps=8)], PRIOR) == growth.gain([run(z)], PRIOR)


def test_epochs_of_an_earlier_version_count_as_the_unit():
    """A run that an earlier version began, whose records did not count steps."""
    z = -1.0 + 0.8 * np.log1p(np.arange(4))
    old, new = run(z), run(z, epoch_steps=313)
    resumed = Trajectory("a", "linear", (*old.records[:2], *new.records[2:]))
    assert growth.training_steps(resumed).tolist() == [0, 8, 16, 24]
    assert growth.gain([resumed], PRIOR) == growth.gain([old], PRIOR)


@pytest.mark.parametrize("gap", [0.05, 0.3, 1.0])
def test_a_pool_that_does_not_overfit_gains_more(gap: float):
    z = -1.0 + 0.8 * np.log1p(np.arange(4))
    assert growth.gain([run(z, gap=gap)], PRIOR) == pytest.approx(0.5 * 0.8 / gap**0.4)


def test_the_gap_is_that_of_the_mean_losses_of_the_longest_runs():
    z = np.linspace(-1.0, 1.0, 4)
    pool = [run(z, gap=0.2), run(z, gap=0.6), run(z[:2], gap=0.9)]
    assert growth.loss_gap(pool, None) == pytest.approx(0.4)
    assert growth.loss_gap([*pool, run(z, gap=np.nan)], None) == pytest.approx(0.4)


@pytest.mark.parametrize(("images", "least"), [(None, 0.01), (0, 0.01), (400, 1 / 60)])
def test_a_gap_is_not_believed_to_be_smaller_than_images_can_tell(images: int | None, least: float):
    z = np.linspace(-1.0, 1.0, 4)
    for gap in (-0.5, 0.0, 0.9 * least):
        assert growth.loss_gap([run(z, gap=gap)], images) == pytest.approx(least)
    assert growth.loss_gap([run(z, gap=1.1 * least)], images) == pytest.approx(1.1 * least)


def test_without_losses_the_gap_is_the_usual_one():
    z = np.linspace(-1.0, 1.0, 4)
    assert growth.loss_gap([run(z, gap=np.nan)], 400) == growth.USUAL_GAP
    assert growth.loss_gap([], 400) == growth.USUAL_GAP


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
