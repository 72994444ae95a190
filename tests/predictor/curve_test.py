"""Curve extrapolation: recovers its own families, knows what it does not know."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ncap_jax.predictor.curve import FAMILIES, HORIZON, NOISE, extrapolation, fit
from tests.support.pool import make_pool

# Parameters (logit c, log a, log k) near each prior's centre.
TRUTH = {
    "power": (1.7, np.log(0.5), np.log(0.9)),
    "exponential": (1.7, np.log(0.6), np.log(0.5)),
    "log_power": (1.7, np.log(0.7), np.log(1.2)),
}


def trajectory_of(accuracies):
    (trajectory,) = make_pool(1, epochs=len(accuracies))
    records = [
        dataclasses.replace(r, validation_accuracy=float(a))
        for r, a in zip(trajectory.records[1:], accuracies)
    ]
    return dataclasses.replace(trajectory, records=(trajectory.records[0], *records))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_recovers_a_curve_of_its_own_family(name):
    theta, t = np.array(TRUTH[name]), np.arange(1.0, 31.0)
    family = FAMILIES[name]
    answer = fit(family, t, family.curve(theta, t))
    truth = family.curve(theta, np.array([HORIZON]))[0]
    # Thirty noise-free epochs; what is left is the pull of the prior, within the noise assumed.
    assert abs(answer.mean - truth) < NOISE


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_right_family_gets_the_weight(name):
    theta, t = np.array(TRUTH[name]), np.arange(1.0, 41.0)
    rng = np.random.default_rng(0)
    y = FAMILIES[name].curve(theta, t) + 0.5 * NOISE * rng.normal(size=t.size)
    evidence = {n: fit(family, t, y).log_evidence for n, family in FAMILIES.items()}
    assert max(evidence, key=evidence.get) == name


def test_intervals_cover_draws_from_the_prior():
    """Curves drawn from the model itself: two standard deviations cover about 95 %."""
    rng = np.random.default_rng(0)
    family, t = FAMILIES["power"], np.arange(1.0, 6.0)
    inside = []
    while len(inside) < 100:
        theta = rng.normal(family.mean, family.std)
        y, final = family.curve(theta, t), family.curve(theta, np.array([HORIZON]))[0]
        if y.min() < 0.05:  # no accuracy curve
            continue
        answer = fit(family, t, y + NOISE * rng.normal(size=t.size))
        inside.append(abs(answer.mean - final - NOISE * rng.normal()) < 2 * answer.std)
    # Binomial error of 100 draws: about 2 %.
    assert np.mean(inside) > 0.88


def test_less_data_means_more_doubt():
    pool = make_pool(epochs=10)
    predict = extrapolation(list(FAMILIES))
    few = predict([dataclasses.replace(t, records=t.records[:4]) for t in pool])
    assert np.mean([p.std for p in few]) > np.mean([p.std for p in predict(pool)])


def test_a_curve_of_no_family_is_predicted_with_doubt():
    """A slow start followed by a steep rise: none of the families can follow."""
    late = [0.10, 0.11, 0.12, 0.11, 0.13, 0.70, 0.88, 0.92, 0.93, 0.94]
    smooth = FAMILIES["exponential"].curve(np.array(TRUTH["exponential"]), np.arange(1.0, 11.0))
    predict = extrapolation(list(FAMILIES))
    (odd,), (plain,) = predict([trajectory_of(late)]), predict([trajectory_of(smooth)])
    assert odd.std > 0.08 > plain.std
    assert abs(odd.mean - 0.94) < 2 * odd.std


def test_a_missing_epoch_keeps_its_place():
    full = FAMILIES["power"].curve(np.array(TRUTH["power"]), np.arange(1.0, 9.0))
    holed = full.copy()
    holed[2] = np.nan
    (a,), (b,) = (extrapolation(["power"])([trajectory_of(y)]) for y in (full, holed))
    assert abs(a.mean - b.mean) < NOISE
    assert "not finite" in b.flag


@pytest.mark.parametrize("accuracies", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5], [0.9, 0.1]])
def test_odd_curves_stay_finite(accuracies):
    (answer,) = extrapolation(list(FAMILIES))([trajectory_of(accuracies)])
    assert np.isfinite(answer.mean)
    assert np.isfinite(answer.std)
