"""Shortlist and expected regret against the truth: what the columns mean, and the table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import shortlist_study as study
from experiments.tasks import growth_priors, read_tasks
from ncap_jax.types import Prediction
from tests.support.tables import committed


@pytest.fixture(scope="module")
def digits():
    """One set, and the constants from the sets of other sources."""
    (task,) = [t for t in read_tasks("linear", large=True) if t.name == "digits_embedded"]
    return task, {"digits": growth_priors("digits")}


def test_one_pool_is_judged_by_its_truth():
    """The second is truly the best, the first two points below it, and both are on the list."""
    predictions = [Prediction(m, 0.1, own_std=0.05) for m in (0.50, 0.60, 0.58)]
    found = study.outcome(predictions, np.array([0.40, 0.58, 0.60]), seed=0)
    assert (found.covered, found.was_within) == (1.0, 0.0)
    assert found.lost == pytest.approx(2.0)
    assert 2 <= found.size <= 3
    assert found.stated > 0
    assert found.inside == pytest.approx(1.0)


def test_a_certain_and_wrong_choice_is_not_covered():
    predictions = [Prediction(m, 0.1, own_std=0.0) for m in (0.6, 0.5)]
    found = study.outcome(predictions, np.array([0.5, 0.6]), seed=0)
    assert (found.covered, found.size, found.stated) == (0.0, 1.0, 0.0)
    assert found.lost == pytest.approx(10.0)


def test_a_row_is_that_of_the_table(digits):
    task, priors = digits
    rows = list(study.outcomes(task, 3, priors["digits"]))
    assert study.row([rows], "digits_embedded, 3") in committed("shortlist_study")


def test_differences_are_means_over_sets_of_means_over_seeds(monkeypatch):
    """Two sets, of two seeds and of one: (1 + 3) / 2 and 5 points stated, nothing lost."""
    said = {"a": [1.0, 3.0], "b": [5.0]}

    def outcomes(task, epochs, priors):
        return [study.Outcome(1.0, 1.0, stated, 0.0, 1.0, 1.0, 1.0) for stated in said[task.name]]

    monkeypatch.setattr(study, "outcomes", outcomes)
    monkeypatch.setattr(study, "data_of", lambda name: name)
    tasks = [study.Task(name, "linear", [], *[np.zeros(0)] * 2, {}, np.zeros(0)) for name in said]
    first = study.differences(tasks, dict.fromkeys(said)).splitlines()[2]
    assert first.startswith("| 1 | 3.50 [")
    assert " | 0.00 [0.00, 0.00] | 3.50 [" in first


@pytest.mark.parametrize("name", study.OTHER_LAWS)
def test_another_law_is_another_row_and_is_left_in_the_study(digits, name: str):
    task, priors = digits
    function, _ = study.OTHER_LAWS[name]
    before = getattr(study.growth, function)
    row = study.with_other_law(name, [task])
    assert getattr(study.growth, function) is before
    assert row.startswith(f"| 1.10, {name} | ")
    product = study.by_width([task], priors).splitlines()[3]
    assert row.split("|")[2:] != product.split("|")[2:]


def test_what_the_other_laws_leave_out():
    assert study.alike(0.7, np.array([-1.0, 2.0])).tolist() == [0.7, 0.7]
    assert study.by_gain_alone(0.25, 3.0) == study.by_gain_alone(0.25, 0.0) == 0.5


def test_the_sets_that_lose_most_are_told_from_the_others(monkeypatch):
    lost = {"a": [4.0, 6.0], "b": [0.5], "c": [9.0], "d": [1.5]}

    def outcomes(task, epochs, priors):
        return [study.Outcome(1.0, 1.0, 2.0, points, 1.0, 1.0, 1.0) for points in lost[task.name]]

    monkeypatch.setattr(study, "outcomes", outcomes)
    monkeypatch.setattr(study, "data_of", lambda name: name)
    tasks = [study.Task(name, "linear", [], *[np.zeros(0)] * 2, {}, np.zeros(0)) for name in lost]
    first = study.losing_most(tasks, dict.fromkeys(lost)).splitlines()[2]
    assert first == "| 1 | c 2.00, 9.00; a 2.00, 5.00 | +1.00 |"


def test_normals_are_drawn_in_the_study_alone(digits):
    predictions = [Prediction(0.97, 0.1, own_std=0.05), Prediction(0.90, 0.1, own_std=0.02)]
    drawn = study.normals(predictions, seed=0)
    assert drawn.max() > 1.0
    assert np.mean(drawn, axis=0) == pytest.approx([0.97, 0.90], abs=0.002)
    assert np.std(drawn, axis=0) == pytest.approx([0.05, 0.02], rel=0.03)
    task, priors = digits
    before = study.contest.samples
    said = study.as_normals([task], priors)
    assert study.contest.samples is before
    assert said.count(", normals |") == len(study.EPOCHS)


def test_more_samples_covered_make_longer_lists(digits):
    task, priors = digits
    lines = study.by_share([task], priors).splitlines()[2:]
    sizes = [float(line.split("|")[2].split(",")[1]) for line in lines]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    product = study.row([list(study.outcomes(task, 1, priors["digits"]))], "x").split("|")
    assert lines[1].split("|")[2].split(", ")[1].strip() == product[3].strip()


def test_wider_normals_state_more_regret(digits):
    task, priors = digits
    lines = study.by_width([task], priors).splitlines()[2:]
    after_one = [float(line.split("|")[2].split(",")[1]) for line in lines]
    assert after_one == sorted(after_one)
    assert after_one[0] < after_one[-1]
    one = study.mean_outcome([task], 1, priors)
    assert after_one[1] == pytest.approx(one.stated - one.lost, abs=0.005)
