"""Few validation images: how they are drawn, what is judged, and the committed table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import few_images_study as study
from experiments.shortlist_study import HEAD, RATES, outcomes
from experiments.tasks import POOLS, data_of, read_tasks
from ncap_jax.predictor import growth
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
    lines += study.gained(every).splitlines()
    assert lines == committed("few_images_study")[: len(lines)]


@pytest.mark.slow
def test_what_is_stated_of_few_images_is_that_of_the_table():
    tasks = [t for pool in POOLS for t in read_tasks(HEAD, pool, RATES[pool], large=True)]
    found = study.stated_table(tasks).splitlines()
    assert found == committed("few_images_study")[-len(found) :]


def test_a_blurred_pool_is_what_so_few_images_would_have_shown():
    (task, *_) = read_tasks(HEAD, POOLS[0])
    (pool, *_) = task.pools
    drawn = [study.blurred_pool(pool, 20, np.random.default_rng(i)) for i in range(100)]
    assert {one[0].validation_images for one in drawn} == {(20,)}
    seen = np.array([one[0].series("validation_accuracy") for one in drawn])
    np.testing.assert_allclose(seen * 20, np.round(seen * 20), atol=1e-9)
    truth = pool[0].series("validation_accuracy")
    np.testing.assert_allclose(seen.mean(axis=0), truth, atol=4 * 0.5 / np.sqrt(20 * 100))
    losses = [one[0].series("train_loss").tolist() for one in drawn]
    assert all(row == pool[0].series("train_loss").tolist() for row in losses)


def test_of_few_images_more_is_stated_than_of_all():
    """The worse the images tell models apart, the more the choice is expected to cost."""
    (task, *_) = read_tasks(HEAD, POOLS[0])
    priors = {data_of(task.name): growth.PRIORS}
    few = study.stated(task, 20, 3, priors)
    assert len(few) == study.RUNS * len(task.pools)
    whole = list(outcomes(task, 3, priors[data_of(task.name)]))
    assert np.mean([o.stated for o in few]) > np.mean([o.stated for o in whole])
    assert np.mean([o.size for o in few]) > np.mean([o.size for o in whole])


def test_what_both_gain_is_the_difference_of_the_tables_rows():
    found = study.judge_all(read_tasks(HEAD, "embedded", RATES["embedded"])[:1])
    rows = {x.split("|")[1].strip(): x.split("|")[2:-1] for x in study.table(found).splitlines()}
    first = study.gained(found).splitlines()[2].split("|")[1:-1]
    assert first[0].strip() == "20"
    for i, sign in ((0, 1), (len(study.EPOCHS), -1)):
        difference = sign * (float(rows["both, 20"][i]) - float(rows["accuracy of 20"][i]))
        assert float(first[1 + i].split("[")[0]) == pytest.approx(difference, abs=0.011)
