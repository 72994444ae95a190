"""Few validation images: how they are drawn, what is judged, and the committed table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import few_images_study as study
from experiments.shortlist_study import HEAD, RATES
from experiments.tasks import POOLS, read_tasks
from tests.support.tables import committed


def test_the_first_model_is_judged_by_where_it_ends():
    scores, truth = np.array([0.1, 0.9, 0.5]), np.array([0.6, 0.5, 0.7])
    tau, lost = study.judged(scores, truth)
    assert tau == pytest.approx(-1 / 3)
    assert lost == pytest.approx(20.0)


def test_accuracies_of_few_images_are_shares_of_them():
    accuracies = np.array([[0.5, 0.9]])
    drawn = [study.blurred(accuracies, 20, np.random.default_rng(i)) for i in range(200)]
    shares = np.array(drawn) * 20
    np.testing.assert_allclose(shares, np.round(shares), atol=1e-4)
    np.testing.assert_allclose(np.mean(drawn, axis=0), accuracies, atol=0.03)
    assert np.std(drawn, axis=0)[0] == pytest.approx([0.112, 0.067], abs=0.02)  # √(p (1 − p) / 20)


def test_the_loss_needs_no_images():
    (task, *_) = read_tasks(HEAD, POOLS[0])
    found = study.signals(task, 1)
    losses = [[run.records[1].train_loss for run in pool] for pool in task.pools]
    np.testing.assert_array_equal(found[study.LOSS], [-np.array(losses)])
    assert len(found["accuracy of 20"]) == len(found["both, 20"]) == study.DRAWS


def test_the_committed_tables_are_the_studys():
    pools = [study.judge_all(read_tasks(HEAD, pool, RATES[pool], large=True)) for pool in POOLS]
    every = {n: [each for found in pools for each in found[n]] for n in study.EPOCHS}
    lines = [line for found in pools for line in study.table(found).splitlines()]
    assert [*lines, *study.gained(every).splitlines()] == committed("few_images_study")


def test_what_both_gain_is_the_difference_of_the_tables_rows():
    found = study.judge_all(read_tasks(HEAD, "embedded", RATES["embedded"])[:1])
    rows = {x.split("|")[1].strip(): x.split("|")[2:-1] for x in study.table(found).splitlines()}
    first = study.gained(found).splitlines()[2].split("|")[1:-1]
    assert first[0].strip() == "20"
    for i, sign in ((0, 1), (len(study.EPOCHS), -1)):
        difference = sign * (float(rows["both, 20"][i]) - float(rows["accuracy of 20"][i]))
        assert float(first[1 + i].split("[")[0]) == pytest.approx(difference, abs=0.011)
