"""The plan of a run: what would happen, as far as it is known, and no trace of it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.options import DataConfig
from ncap_jax.run import looking, pipeline, planning
from ncap_jax.run.request import Request
from ncap_jax.selection import race
from tests.support import fake_training
from tests.support.toy_runs import CONFIG, POOL, digits, rank

RECALL = dataclasses.replace(CONFIG, head="linear", recall=2, epochs=1, keep_states=0)


@pytest.fixture(autouse=True)
def features(monkeypatch):
    """Of the models that were loaded; the later, the better."""
    fake_training.install(monkeypatch)
    seen: list[str] = []

    def untouched(spec, feed, config):
        seen.append(spec.name)
        return np.array([[float(spec.name[-1])], [9.0]]), np.array([0, 1])

    monkeypatch.setattr(looking.evaluation, "untouched_features", untouched)
    monkeypatch.setattr(looking, "feature_scores", lambda x, labels: {"logme": float(x[0, 0])})
    monkeypatch.setattr(pipeline.report, "write", lambda ranking, folder, finished: None)
    return seen


def plan(config, folder=None, models=POOL):
    return planning.plan(Request(models, digits(), config, DataConfig(), folder))


def test_nothing_is_loaded_or_written(features, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "SHARES", {1: Fraction(1, 2), 2: Fraction(1, 2), 3: Fraction(1, 3)})
    monkeypatch.setattr(race, "LEAST", 1)
    config = dataclasses.replace(RECALL, strategy="race", epochs=5, time_budget=600.0)
    said = plan(config, tmp_path / "run")
    assert said[0] == "Data: small digits, 96 training and 70 validation images."
    assert said[1].startswith("Candidates: 3, of which the filters leave 3 (")
    assert said[2:] == [
        "Recall: 2 of 3, by prior, features and diversity.",
        "Features: 0 models were scored before, 3 are loaded in at most 3 min 20 s.",
        "As far as is known, it would choose toy_1, toy_2.",
        "Training: 2 models, up to 5 epochs each. The race lets 1 after 1, 1 after 2 and 1 after 3 "
        "continue, and those that the images cannot tell from them.",
        "Time budget: 10 min 00 s in all. A model is given its first epoch as long as there is "
        "time for the race that follows: for how many is known once the first one has had its own.",
        "How long an epoch takes is known once the first model has trained one.",
        "Nothing was trained or written.",
    ]
    assert features == []
    assert not (tmp_path / "run").exists()


def test_what_earlier_calls_found_is_told(features, tmp_path):
    rank(tmp_path, RECALL, models=3)
    assert "It is decided already: toy_3, toy_2." in plan(RECALL, tmp_path)
    one = plan(dataclasses.replace(RECALL, recall=1), tmp_path)
    assert "As far as is known, it would choose toy_3." in one
    (line,) = (line for line in one if line.startswith("Features: "))
    assert line == "Features: 3 models were scored before, 0 are loaded in at most 10 min 00 s."
    assert len(features) == 3


def test_the_pace_of_those_that_were_scored_foretells_the_rest():
    assert planning._about([2.0, 4.0], 3) == ", about 9.0 s at the pace of the others"
    assert planning._about([2.0], 0) == planning._about([], 3) == ""


def test_without_a_recall_all_are_trained_and_who_is_left_out_is_named():
    sized = [dataclasses.replace(POOL[0], parameters=9_999_999), *POOL[1:]]
    config = dataclasses.replace(CONFIG, max_parameters=600)
    said = plan(config, models=sized)
    assert said[1].startswith("Candidates: 3, of which the filters leave 2 (")
    assert said[2].startswith("Left out: toy_1, 9,999,999 parameters")
    assert said[3] == "Training: 2 models, up to 3 epochs each."


def test_what_the_run_would_refuse_is_refused():
    with pytest.raises(errors.ConfigError, match="epochs_budget=1 does not suffice"):
        plan(dataclasses.replace(RECALL, epochs_budget=1))
