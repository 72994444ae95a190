"""The bill."""

from __future__ import annotations

import math

import numpy as np

from ncap_jax.report.cost import FULL_EPOCHS, cost
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import Trajectory
from tests.predictor.pool import make_pool


def test_cost_against_full_fine_tuning():
    ranking = rank_trajectories(make_pool(models=2, epochs=5), "x", info={"full_epochs": 20})
    bill = cost(ranking)
    seconds = [row.seconds for row in ranking.models]
    assert bill.spent == sum(seconds)
    assert bill.epochs == 10
    np.testing.assert_allclose(bill.full, sum(seconds) / 5 * 20)
    np.testing.assert_allclose(bill.fraction, 0.25)
    assert "about 25 % of the" in bill.sentence()


def test_a_model_without_epochs_does_not_count_as_full():
    pool = [*make_pool(models=1), Trajectory("a", "probe", (), "failed", "no", seconds=3.0)]
    bill = cost(rank_trajectories(pool, "x"))
    assert bill.full_epochs == FULL_EPOCHS
    np.testing.assert_allclose(bill.spent, pool[0].seconds + 3.0)
    np.testing.assert_allclose(bill.full, pool[0].seconds / 5 * FULL_EPOCHS)


def test_nothing_trained():
    bill = cost(rank_trajectories([], "x"))
    assert math.isnan(bill.fraction)
    assert bill.sentence() == "0 epochs in 0.0 s."
