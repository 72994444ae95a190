"""Which models a recall keeps, replayed: the tables are what the study prints."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments import finish_study
from experiments import recall_study as study
from experiments.tasks import POOLS
from tests.support.tables import committed, rows, without_intervals


@pytest.fixture(scope="module")
def pools():
    return {pool: study.scored(pool) for pool in POOLS}


def test_rows_are_those_of_the_table(pools, monkeypatch):
    """Of the ways that learn nothing; the slow test has all."""
    monkeypatch.setattr(finish_study, "DRAWS", 1)
    quick = {name: way for name, way in study.WAYS.items() if way is not study.learned}
    monkeypatch.setattr(study, "WAYS", quick)
    printed = without_intervals(rows("\n".join([study.table(pools), study.seconds_table()])))
    left = without_intervals(committed("recall_study"))
    assert [line for line in printed if line not in left] == []
    assert len(printed) > len(quick)


@pytest.mark.slow
def test_all_tables_are_those_that_are_committed(capsys):
    study.main([])
    assert rows(capsys.readouterr().out) == committed("recall_study")


def test_a_random_choice_is_the_mean_over_all_choices():
    truth = np.array([0.5, 0.9, 0.7, 0.2])
    every = [90 - 100 * max(truth[list(c)]) for c in itertools.combinations(range(4), 2)]
    assert study.at_random(truth, 2) == pytest.approx(np.mean(every))
    assert study.at_random(truth, 4) == pytest.approx(0)


def test_a_way_loses_what_the_best_of_its_choice_lacks(pools):
    task = pools["embedded"][0]
    pool = study.Pool(task, 0, pools["embedded"])
    order = np.argsort(-task.truth)
    assert study.lost(lambda pool, keep: [int(order[0])], pool, 1) == 0
    second = 100 * (task.truth[order[0]] - task.truth[order[1]])
    assert study.lost(lambda pool, keep: [int(order[1])], pool, 1) == pytest.approx(second)


def test_a_family_left_out_takes_all_its_models_along(pools):
    task = pools["embedded"][0]
    reduced = study.without(task, "tiny_resnet", study.family_of)
    gone = {run.model for run in task.pools[0]} - {run.model for run in reduced.pools[0]}
    assert gone == {"tiny_resnet", "tiny_resnet_deep", "tiny_resnet_random"}
    assert len(reduced.truth) == len(task.truth) - 3 == len(reduced.scores["logme"][0])
