"""The answer in points: expected regret, P(within), the shortlist."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ncap_jax.selection import contest, shortlist
from ncap_jax.types import Prediction


def pool(*pairs: tuple[float, float]) -> list[Prediction]:
    return [Prediction(mean, 0.5, own_std=spread) for mean, spread in pairs]


def test_two_models_by_the_formula_of_two_normals():
    """E[max(0, D)] and P(D > x) of the difference D ~ N(-0.02, 0.05²), in points."""
    found = shortlist.outlook(pool((0.6, 0.03), (0.58, 0.04)), 1.0, seed=0)
    difference = stats.norm(-2.0, 5.0)
    expected = difference.expect(lambda d: d, lb=0.0)
    assert found.expected_regret == pytest.approx(expected, abs=0.1)
    assert found.within[0] == pytest.approx(difference.cdf(1.0), abs=0.01)
    assert found.within[1] == pytest.approx(difference.sf(-1.0), abs=0.01)


def test_what_all_share_does_not_count():
    """Only `own_std` does: both are certain of their difference."""
    found = shortlist.outlook(pool((0.6, 0.0), (0.5, 0.0)), 1.0, seed=0)
    assert (found.expected_regret, found.within.tolist(), found.shortlist) == (0.0, [1, 0], (0,))


def test_the_chosen_model_is_on_the_list_even_if_another_leads():
    found = shortlist.outlook(pool((0.5, 0.0), (0.6, 0.0)), 1.0, seed=0)
    assert found.shortlist == (0, 1)
    assert found.expected_regret == pytest.approx(10.0)


def test_accuracies_end_at_one():
    """Samples above 100 % are no better than 100 %."""
    found = shortlist.outlook(pool((0.999, 0.2), (0.2, 0.0)), 1.0, seed=0)
    assert found.within[1] < 0.01
    assert found.expected_regret < 0.1


@given(st.data())
@settings(max_examples=50)
def test_the_greedy_list_covers_and_needs_at_most_one_more_than_the_smallest(data):
    rows = data.draw(st.integers(1, 12))
    models = data.draw(st.integers(1, 5))
    good = np.array(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=models, max_size=models).filter(any),
                min_size=rows,
                max_size=rows,
            )
        )
    )
    chosen = shortlist.smallest_cover(good, 0.9)
    assert good[:, chosen].any(axis=1).mean() >= 0.9
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen)
    smallest = next(
        size
        for size in range(1, models + 1)
        for rest in itertools.combinations(range(1, models), size - 1)
        if good[:, [0, *rest]].any(axis=1).mean() >= 0.9
    )
    assert len(chosen) <= smallest + 1


@given(
    means=st.lists(st.floats(0.2, 0.9), min_size=2, max_size=6),
    spread=st.floats(0.005, 0.1),
    points=st.floats(0.0, 5.0),
)
@settings(max_examples=30, deadline=None)
def test_more_points_never_hurt(means, spread, points):
    predictions = pool(*((mean, spread) for mean in sorted(means, reverse=True)))
    small, large = (shortlist.outlook(predictions, x, seed=1) for x in (points, points + 1))
    assert np.all(large.within >= small.within)
    assert len(large.shortlist) <= len(small.shortlist) + 1
    assert small.expected_regret == large.expected_regret >= 0
    best = contest.chances(predictions, 1, seed=1)
    assert np.all(small.within >= best - 1e-12)
