"""Forms of the law of growth: what each counts, and the committed table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import growth_study as study
from experiments.shortlist_study import HEAD, RATES
from experiments.tasks import POOLS, read_tasks
from ncap_jax.predictor import growth
from tests.support.tables import committed


def seen(task: str, curve: np.ndarray) -> study.Seen:
    """A pool whose mean logits are these."""
    leads = growth.Leads(0.0, 0.0, 1.0, np.array([-0.5, 0.5]), np.array([-0.4, 0.4]), 0.0)
    return study.Seen(task, curve, leads)


def test_an_epoch_has_the_steps_of_its_images():
    names = ["digits_embedded", "digits-100_embedded", "digits_genuine", "birds525-1050_genuine"]
    assert list(map(study.steps_per_epoch, names)) == [16, 4, 8, 33]


@pytest.mark.parametrize("task", ["digits_embedded", "digits-100_embedded"])
def test_a_curve_that_rises_by_steps_has_the_same_slope_on_every_set(task):
    steps = np.arange(4) * study.steps_per_epoch(task)
    curve = seen(task, 0.7 * np.log1p(steps / study.COMMON_STEPS))
    assert study.by_steps(curve) == pytest.approx(0.7)


def test_what_is_left_falls_with_the_epochs():
    for epochs, end, task in ((1, 20, "digits_embedded"), (5, 10, "digits_genuine")):
        curve = seen(task, 0.7 * np.log1p(np.arange(epochs + 1)))
        assert study.by_epochs(curve) == pytest.approx(0.7)
        left = np.log((1 + end) / (1 + epochs))
        assert study.by_what_is_left(curve) == pytest.approx(0.7 * left)


def test_ends_where_they_are_expected_are_more_likely():
    prior = growth.Prior(1.0, 0.5, own=0.1, shrink=0.0, scatter=0.0, unforeseen=0.0)
    leads = seen("digits_embedded", np.zeros(2)).leads
    here = study.likelihood(prior, leads._replace(after=leads.before))
    assert here > study.likelihood(prior, leads) > study.likelihood(prior, leads._replace(noise=9))


def test_the_committed_table_is_the_studys():
    tasks = [task for pool in POOLS for task in read_tasks(HEAD, pool, RATES[pool], large=True)]
    assert study.table(tasks).splitlines() == committed("growth_study")
