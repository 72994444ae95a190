"""The bill."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ncap_jax.report.cost import FULL_EPOCHS, cost, wall_time
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import Trajectory
from tests.support.pool import make_pool


def test_cost_against_full_fine_tuning():
    ranking = rank_trajectories(make_pool(models=2, epochs=5), "x", info={"full_epochs": 20})
    bill = cost(ranking)
    seconds = [row.seconds for row in ranking.models]
    assert bill.spent == sum(seconds)
    assert bill.epochs == 10
    # Fifteen more epochs of 1.5 s each, without the 0.2 s that beta_eff takes.
    np.testing.assert_allclose(bill.full, sum(seconds) + 2 * 15 * 1.3)
    np.testing.assert_allclose(bill.fraction, 22.0 / 61.0)
    assert "about 36 % of the" in bill.sentence()


def test_the_first_epoch_compiles_and_is_no_measure():
    (model,) = make_pool(models=1, epochs=2)
    slow = dataclasses.replace(model.records[1], seconds=100.0)
    records = (model.records[0], slow, *model.records[2:])
    pool = [dataclasses.replace(model, records=records, seconds=110.0)]
    bill = cost(rank_trajectories(pool, "x", info={"full_epochs": 13}))
    np.testing.assert_allclose(bill.full, 110.0 + 11 * 1.3)
    bare = dataclasses.replace(rank_trajectories(pool, "x"), trajectories=())
    np.testing.assert_allclose(cost(bare).full, 110.0 / 2 * FULL_EPOCHS)


def test_who_was_stopped_after_one_epoch_is_priced_by_the_pace_of_the_others():
    """The first epochs compile: one took 100 s, the other 50 s; the first then needs 1.3 s."""
    one, two = make_pool(models=2, epochs=3)
    runs = []
    for model, first, epochs in ((one, 100.2, 3), (two, 50.2, 1)):
        slow = dataclasses.replace(model.records[1], seconds=first)
        records = (model.records[0], slow, *model.records[2:])[: epochs + 1]
        status = "ok" if epochs == 3 else "stopped"
        runs.append(dataclasses.replace(model, records=records, seconds=first + 5, status=status))
    bill = cost(rank_trajectories(runs, "x", info={"full_epochs": 13}))
    np.testing.assert_allclose(bill.full, 105.2 + 10 * 1.3 + 55.2 + 12 * 0.65)


def test_a_model_without_epochs_does_not_count_as_full():
    pool = [*make_pool(models=1), Trajectory("a", "probe", (), "failed", "no", seconds=3.0)]
    bill = cost(rank_trajectories(pool, "x"))
    assert bill.full_epochs == FULL_EPOCHS
    np.testing.assert_allclose(bill.spent, pool[0].seconds + 3.0)
    np.testing.assert_allclose(bill.full, pool[0].seconds + 25 * 1.3)


def test_nothing_trained():
    bill = cost(rank_trajectories([], "x"))
    assert math.isnan(bill.fraction)
    assert bill.sentence() == "0 epochs in 0.0 s."


def test_wall_times_are_told_as_far_as_they_are_known():
    assert wall_time(None) == ""
    assert wall_time(70.0) == "Wall time in all: 1 min 10 s."
    assert wall_time(None, 5.0) == "Wall time of the finish: 5.0 s."
    assert wall_time(70.0, 5.0) == (
        "Wall time in all: 1 min 15 s, 1 min 10 s for the ranking and 5.0 s for the finish."
    )
