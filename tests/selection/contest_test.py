"""Chances and ties against the distributions they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from ncap_jax.selection.contest import chances, has_distribution, samples, tied_with_first
from ncap_jax.types import Prediction

# Of 20,000 samples the standard error of a chance is at most 0.0035.
NEAR = {"abs": 0.015}


def test_the_chance_of_two_is_the_normal_one_of_what_they_do_not_share():
    pair = [Prediction(0.80, 0.1, own_std=0.03), Prediction(0.77, 0.1, own_std=0.04)]
    expected = norm.cdf(0.03 / 0.05)
    assert chances(pair, 1, seed=0).tolist() == pytest.approx([expected, 1 - expected], **NEAR)


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 0.1), (0.97, 0.02), (0.02, 0.01), (0.9, 0.2)])
def test_samples_are_shares_with_the_stated_mean_and_deviation(mean: float, spread: float):
    """Of 20,000; the fourth moment of the widest makes its deviation the least certain."""
    drawn = samples([Prediction(mean, spread)], seed=0)[:, 0]
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert np.mean(drawn) == pytest.approx(mean, abs=4 * spread / math.sqrt(len(drawn)))
    assert np.std(drawn) == pytest.approx(spread, rel=0.05)


def test_what_no_share_can_have_is_sampled_as_far_as_it_goes():
    """Methods that predict accuracies themselves may state a mean above 1, or any deviation."""
    above, wide, certain = samples(
        [Prediction(1.2, 0.01), Prediction(0.9, 5.0), Prediction(1.1, 0.0)], seed=0
    ).T
    assert np.mean(above) == pytest.approx(0.999, abs=1e-3)
    assert np.mean(wide) == pytest.approx(0.9, abs=0.01)
    assert np.std(wide) == pytest.approx(math.sqrt(0.9 * 0.1 / 2), rel=0.05)
    assert set(certain) == {1.1}


def test_without_an_own_part_the_whole_deviation_decides():
    pair = [Prediction(0.8, 0.03), Prediction(0.7, 0.04)]
    assert chances(pair, 1, seed=0)[0] == pytest.approx(norm.cdf(0.1 / 0.05), **NEAR)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_equals_share_the_places(top: int):
    equal = [Prediction(0.8, 0.1)] * 4
    found = chances(equal, top, seed=[3, 1])
    assert found.sum() == pytest.approx(top)
    assert found.tolist() == pytest.approx([top / 4] * 4, **NEAR)


def test_more_places_more_chances_and_all_places_are_certain():
    pool = [Prediction(0.9 - 0.05 * i, 0.05) for i in range(4)]
    found = np.array([chances(pool, top, seed=0) for top in (1, 2, 3, 4, 9)])
    assert np.all(np.diff(found, axis=0) >= 0)
    assert found[3].tolist() == found[4].tolist() == [1.0] * 4
    assert found[0].tolist() == sorted(found[0], reverse=True)


def test_the_seed_decides():
    pool = [Prediction(0.8, 0.1), Prediction(0.79, 0.1)]
    assert chances(pool, 1, seed=5).tolist() == chances(pool, 1, seed=5).tolist()
    assert chances(pool, 1, seed=5).tolist() != chances(pool, 1, seed=6).tolist()


def test_certain_models_are_ordered_by_their_means_then_by_their_place():
    certain = [Prediction(0.7, 0.0), Prediction(0.8, 0.0), Prediction(0.8, 0.0)]
    assert chances(certain, 1, seed=0).tolist() == [0.0, 1.0, 0.0]
    assert chances(certain, 2, seed=0).tolist() == [0.0, 1.0, 1.0]
    many = [Prediction(0.8, 0.0)] * 40
    assert chances(many, 3, seed=0).tolist() == [1.0] * 3 + [0.0] * 37


@pytest.mark.parametrize(
    ("prediction", "known"),
    [
        (Prediction(0.8, 0.1), True),
        (Prediction(0.8, 0.1, own_std=0.05), True),
        (Prediction(0.8), False),
        (Prediction(math.nan, 0.1), False),
        (Prediction(0.8, math.inf), False),
    ],
)
def test_what_is_a_distribution(prediction: Prediction, known: bool):
    assert has_distribution(prediction) is known


def test_ties_are_those_with_a_chance_above_one_in_twenty():
    first = Prediction(0.80, 0.2, own_std=0.03)
    # P(better) = Φ(−d / 0.05): one in twenty at d = 1.645 · 0.05.
    near, far = (Prediction(0.80 - d, 0.2, own_std=0.04) for d in (0.082, 0.083))
    assert tied_with_first([first, near, far]) == [False, True, False]


def test_ties_without_a_distribution_are_equal_values():
    some = [Prediction(0.8), Prediction(0.8, 0.1), Prediction(0.79, 0.1)]
    assert tied_with_first(some) == [False, True, False]
    certain = [Prediction(p, 0.0) for p in (0.8, 0.8, 0.79)]
    assert tied_with_first(certain) == [False, True, False]
    assert tied_with_first([]) == []
