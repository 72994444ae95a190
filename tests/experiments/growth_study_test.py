"""Forms of the law of growth: what each counts, and the committed table."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import growth_study as study
from experiments.shortlist_study import EPOCHS, HEAD, RATES
from experiments.tasks import POOLS, read_tasks
from ncap_jax.predictor import growth, growth_fit
from tests.support.tables import committed


def seen(task: str, curve: np.ndarray, epoch_steps: int = 4) -> study.Seen:
    """A pool whose mean logits are these."""
    lead = np.array([-0.5, 0.5])
    leads = growth_fit.Leads(0.0, 0.2, 0.0, 1.0, lead, 0.8 * lead, 0.0)
    return study.Seen(task, curve, epoch_steps, leads)


@pytest.mark.parametrize("epoch_steps", [4, 16, 313])
def test_a_curve_that_rises_by_steps_has_the_same_slope_on_every_set(epoch_steps):
    steps = np.arange(4) * epoch_steps
    curve = seen("digits_embedded", 0.7 * np.log1p(steps / growth.UNIT_STEPS), epoch_steps)
    assert study.by_steps(curve) == pytest.approx((0.7, 0.2))
    assert study.FORMS["steps"](curve) == pytest.approx((0.7, 1.0))


@pytest.mark.parametrize("unit", [4, 16])
def test_another_unit_of_training_time(unit: int):
    curve = seen("digits_embedded", 0.7 * np.log1p(np.arange(4) * 20 / unit), 20)
    assert study.FORMS[f"{unit} steps"](curve) == pytest.approx((0.7, 0.2))
    assert study.by_steps(curve)[0] != pytest.approx(0.7, rel=0.01)


def test_the_law_takes_the_form_that_it_is_given():
    curve = seen("digits_embedded", 0.7 * np.log1p(np.arange(4) / 2))
    paces = {name: study.in_form(form, [curve])[0].leads.pace for name, form in study.FORMS.items()}
    assert paces[study.PRODUCT] == pytest.approx(0.7 / 0.2**0.4)
    assert paces["ρ^0.3"] == pytest.approx(0.7 / 0.2**0.3)
    assert paces["ρ^0.5"] == pytest.approx(0.7 / 0.2**0.5)
    assert paces["steps"] == pytest.approx(0.7)


def test_what_is_left_falls_with_the_epochs():
    for epochs, end, task in ((1, 20, "digits_embedded"), (5, 10, "digits_genuine")):
        curve = seen(task, 0.7 * np.log1p(np.arange(epochs + 1)))
        assert study.by_epochs(curve) == pytest.approx((0.7, 0.2))
        left = np.log((1 + end) / (1 + epochs))
        assert study.by_what_is_left(curve) == pytest.approx((0.7 * left, 1.0))


def test_ends_where_they_are_expected_are_more_likely():
    prior = growth.Prior(1.0, 0.5, own=0.1, shrink=0.0, scatter=0.0, unforeseen=0.0)
    leads = seen("digits_embedded", np.zeros(2)).leads
    here = study.likelihood(prior, leads._replace(after=leads.before))
    assert here > study.likelihood(prior, leads) > study.likelihood(prior, leads._replace(noise=9))


def test_each_law_is_another_and_leaves_the_products_in_place():
    pool = seen("digits_embedded", np.zeros(2))
    leads = pool.leads._replace(slope=1.0, gap=1.0, rise=1.0)
    prior = growth.Prior(2.0, 0.5, own=0.1, shrink=0.5, scatter=0.9, unforeseen=0.0)
    found = []
    for law in study.LAWS.values():
        with law():
            found.append(study.likelihood(prior, leads))
    assert len(set(found)) == len(study.LAWS)
    assert study.likelihood(prior, leads) == found[0]


def test_long_epochs_are_read_at_their_ends():
    (pool, *_) = study.long_pools("fashion_mnist")
    assert [trajectory.epochs for trajectory in pool] == [20] * 13
    assert pool[0].series("steps").tolist() == [313 * epoch for epoch in range(21)]


def test_other_laws_are_left_in_the_study():
    (pool, *_) = study.long_pools("fashion_mnist")
    with study.PATCHES["epochs, losses"]():
        assert growth.training_steps(pool[0]).tolist() == [8 * epoch for epoch in range(21)]
    assert growth.training_steps(pool[0]).tolist() == [313 * epoch for epoch in range(21)]
    with study.PATCHES["steps"]():
        assert growth.pace(0.7, 0.2) == 0.7
    assert growth.pace(0.7, 0.2) == pytest.approx(0.7 / 0.2**0.4)
    assert set(study.PATCHES) == set(study.LONG)


@pytest.fixture(scope="module")
def every() -> list[study.Seen]:
    """All pools of the corpus after all numbers of epochs."""
    tasks = [task for pool in POOLS for task in read_tasks(HEAD, pool, RATES[pool], large=True)]
    return [seen for n in EPOCHS for task in tasks for seen in study.pools(task, n)]


def test_the_products_rows_are_those_of_the_tables(every):
    for name in (study.PRODUCT, "steps"):
        assert study.row(name, study.FORMS[name], every) in committed("growth_study")
    (law, *_) = study.LAWS
    assert study.row(law, study.by_steps, every) in committed("growth_study")


@pytest.mark.slow
def test_the_committed_tables_are_the_studys(every):
    found = [*study.tables(every), study.long_epochs(every), study.long_accuracies()]
    assert "\n".join(found).splitlines() == committed("growth_study")
