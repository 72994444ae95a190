"""The rivals' table: what signals read, what judges them, and that its rows are the script's."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import rivals_study as study
from experiments.tasks import Task, read_tasks
from ncap_jax.predictor.accuracy_and_loss import standardised
from tests.support.pool import make_pool
from tests.support.tables import committed, without_intervals


def task(name: str, truths: list[list[float]]) -> Task:
    """A set on which models end like this, a row a seed."""
    pools = [make_pool(len(row), 5, seed=seed) for seed, row in enumerate(truths)]
    ends = np.array(truths)
    return Task(name, "linear", pools, ends, np.ones_like(ends), {}, np.zeros(ends.shape[1]))


DIGITS = task("digits_embedded", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
BIRDS = task("birds6_embedded", [[0.3, 0.2, 0.1]])


def test_the_static_list_reads_other_sources_only():
    part = task("digits-100_embedded", [[0.9, 0.8, 0.7]])
    found = study.static_list(DIGITS, [DIGITS, part, BIRDS])
    np.testing.assert_array_equal(found, [[0.0, -0.5, -1.0]] * 2)  # in the order of birds6
    np.testing.assert_array_equal(study.static_list(DIGITS, [DIGITS, part]), [[-0.5] * 3] * 2)


def test_a_seed_is_judged_by_the_others():
    np.testing.assert_array_equal(study.judging(DIGITS), DIGITS.truths[::-1])
    np.testing.assert_array_equal(study.judging(BIRDS), BIRDS.truths)


def test_the_list_counts_less_with_every_epoch():
    pool = [DIGITS, BIRDS]
    listed = standardised(study.static_list(DIGITS, pool))
    for n in (1, 4):
        seen = standardised(study.accuracy(n)(DIGITS, pool))
        both = study.combined(study.static_list, n)(DIGITS, pool)
        np.testing.assert_allclose(both - seen, listed / n)
    np.testing.assert_array_equal(standardised(np.ones((2, 3))), np.zeros((2, 3)))


def test_what_a_user_knows_before_training():
    """Published accuracy, with models drawn at random last; the mean rank of two scores."""
    task = next(t for t in read_tasks("linear", "embedded") if t.name == "digits_embedded")
    names = study.models(task)
    prior = dict(zip(names, study.prior(task, [])[0], strict=True))
    assert min(prior, key=prior.__getitem__) == "tiny_resnet_random"
    scores = {"logme": np.array([[1.0, 2, 3]] * 2), "linear_probe": np.array([[1.0, 3, 2]] * 2)}
    found = study.features(DIGITS._replace(scores=scores), [])
    np.testing.assert_allclose(found, [[-1, -0.25, -0.25]] * 2)


def test_models_without_a_score_and_models_left_out_do_not_count():
    scores = np.array([[1.0, np.nan, 3.0]] * 2)
    judged = study.Judged(DIGITS, scores, DIGITS.truths)
    count = judged.mean(lambda predicted, true: float(len(predicted)))
    np.testing.assert_array_equal(count, [2, 2])
    first = DIGITS.pools[0][0].model
    without = judged.mean(lambda p, t: float(len(p)), lambda model: model == first)
    np.testing.assert_array_equal(without, [1, 1])


def test_differences_of_scores_and_of_accuracies():
    assert study.differences(np.array([1.0, 2, 4]), np.array([2.0, 4, 8])) == pytest.approx(1.0)
    scores, truth = np.array([4.0, 2, 1]), np.array([2.0, 4, 7])
    # Over all pairs it is the correlation of the values themselves.
    assert study.differences(scores, truth) == pytest.approx(np.corrcoef(scores, truth)[0, 1])
    assert np.isnan(study.differences(np.zeros(3), np.arange(3.0)))


@pytest.mark.parametrize(("scatter", "low", "high"), [(1e-4, 0.98, 1.0), (1.0, 0.0, 0.6)])
def test_a_perfect_predictor_is_limited_by_what_the_seeds_scatter(scatter, low, high):
    rng = np.random.default_rng(0)
    ends = np.linspace(0.2, 0.8, 14) + scatter * rng.standard_normal((3, 14))
    assert low <= study.ceiling(task("digits_embedded", ends.tolist())) <= high


def test_errors_are_those_of_sources():
    sets = (DIGITS, task("digits-100_embedded", [[0.1] * 3]), BIRDS)
    rows = [study.Judged(t, t.truths, t.truths) for t in sets]
    mean, error = study.by_source(rows, [np.array([1.0]), np.array([3.0]), np.array([4.0])])
    assert mean == pytest.approx(8 / 3)
    assert error == pytest.approx(np.std([2.0, 4.0], ddof=1) / np.sqrt(2))


def test_rows_of_the_committed_table():
    """The published pool: every figure but the bootstrap's intervals."""
    tasks = read_tasks("linear", "genuine", "known", large=True)
    found = {
        name: [study.Judged(t, study.SIGNALS[name](t, tasks), study.judging(t)) for t in tasks]
        for name in ("parameters", study.LIST, "accuracy, 3")
    }
    rows = [study.line(name, rows, found[study.LIST]) for name, rows in found.items()]
    known = without_intervals(committed("rivals_study"))
    assert set(without_intervals(rows)) <= set(known)
