"""Finishing the first two against finishing all, live: what was run and what is printed of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments import finish_live as study
from tests.support.tables import committed, rows


def test_all_runs_under_the_defaults_were_made():
    lines = study.read()
    made = [(line["set"], line["seed"]) for line in lines if line["way"] == study.DEFAULTS]
    assert sorted(made) == sorted(itertools.product(study.SETS, study.SEEDS))


def test_the_tables_are_what_the_study_prints(capsys: pytest.CaptureFixture[str]):
    study.show(study.read())
    printed = rows(capsys.readouterr().out)
    assert len(printed) > 15
    assert printed == committed("finish_live")


def test_two_are_as_good_as_all_on_average():
    """On test images: within a point of finishing everything."""
    lines = [line for line in study.read() if line["way"] == study.DEFAULTS]
    tests = np.array([[one["test"] for one in line["finished"]] for line in lines])
    assert np.mean(tests[:, -1] - tests[:, 1]) <= 0.01


def test_epochs_and_seconds_add_up():
    """Four models of 5 epochs; the first goes on for 10, the second for 20."""
    line = {
        "ranking": ["a", "b", "c", "d"],
        "rank_cpu": 40.0,
        "curves": {"a": [0.5] * 16, "b": [0.5] * 26, "c": [0.5] * 6, "d": [0.5] * 31},
        "finished": [{"cpu": 10.0}, {"cpu": 15.0}, {"cpu": 30.0}],
    }
    assert [study.epochs(line, top) for top in study.TOPS] == [20 + 10, 20 + 30, 20 + 55]
    assert [study.cpu(line, i) for i in range(3)] == [50.0, 65.0, 95.0]
