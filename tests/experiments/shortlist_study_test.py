"""Shortlist and expected regret against the truth: what the columns mean, and the table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import shortlist_study as study
from experiments.tasks import growth_priors, read_tasks
from ncap_jax.types import Prediction
from tests.support.tables import committed


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


def test_a_row_is_that_of_the_table():
    """One set, with the constants from the sets of other sources."""
    (task,) = [t for t in read_tasks("linear", large=True) if t.name == "digits_embedded"]
    rows = list(study.outcomes(task, 3, growth_priors("digits", large=True)))
    assert study.row([rows], "digits_embedded, 3") in committed("shortlist_study")
