"""Power: the standard error by hand, what seeds can and cannot help, and the committed table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments import power_study as study
from tests.support.tables import committed


def test_the_standard_error_is_that_of_the_tasks_means():
    found = study.power([np.array([1.0, 3.0]), np.array([5.0, 7.0]), np.array([0.0, 2.0])])
    means = np.array([2.0, 6.0, 1.0])
    assert found.mean == pytest.approx(3.0)
    assert found.error == pytest.approx(means.std(ddof=1) / math.sqrt(3))
    assert found.tasks == math.ceil(means.var(ddof=1) / 0.25**2)
    # Each task's mean of two seeds has the variance 2 / 2.
    assert found.of_many_seeds == math.ceil((means.var(ddof=1) - 1) / 0.25**2)


def test_many_seeds_help_where_tasks_agree():
    """Tasks that differ by the luck of their seeds alone, and tasks whose seeds agree."""
    rng = np.random.default_rng(0)
    luck = study.power([rng.normal(0.0, 2.0, size=2) for _ in range(400)])
    assert luck.of_many_seeds < 0.2 * luck.tasks
    apart = study.power([np.full(2, value) for value in rng.normal(0.0, 2.0, size=400)])
    assert apart.of_many_seeds == apart.tasks


def test_a_task_with_one_seed_has_the_luck_of_the_others():
    found = study.power([np.array([0.0, 2.0]), np.array([4.0])])
    # v = 2 on the first: the means' variances are 2 / 2 and 2 / 1.
    assert found.of_many_seeds == math.ceil((4.5 - 1.5) / 0.25**2)


def test_methods_that_choose_alike_do_not_differ():
    accuracy = study.rivals_study.accuracy(1)
    pools = [study.read_tasks(study.HEAD, "embedded")]
    lost = study.lost(accuracy, pools)
    assert [rows.size for rows in lost] == [len(task.pools) for task in pools[0]]
    found = study.power([rows - rows for rows in lost])
    assert found == study.Power(0.0, 0.0, 0, 0)


def test_every_rival_is_compared_with_the_same_epoch():
    (pool,) = [study.read_tasks(study.HEAD, "embedded")]
    (task, *_) = pool
    for n in (1, 5):
        scores = study.rivals(n)["training loss"](task, pool)
        seen = [[run.records[n].train_loss for run in runs] for runs in task.pools]
        np.testing.assert_array_equal(scores, -np.array(seen))


@pytest.mark.slow
def test_the_committed_table_is_the_studys():
    assert study.table().splitlines() == committed("power_study")
