"""Live runs with 44 validation images: how they are judged, and whose table is committed."""

from __future__ import annotations

import pytest

from experiments import few_images_live as study
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.pool import make_pool
from tests.support.tables import committed

ENDS = {"a": 80.0, "b": 79.5, "c": 70.0}


def found(first: str, listed: str, caution: bool = True) -> dict:
    """What a run states that ranks `first` first."""
    names = [first, *(name for name in ENDS if name != first)]
    return {
        "splits": 1,
        "images": 44,
        "caution": ["44 validation images cannot tell"] if caution else [],
        "expected_regret": 2.5,
        "models": [{"name": n, "within": 0.4, "shortlist": n in listed} for n in names],
    }


def test_a_run_is_judged_by_where_models_end():
    assert study.judged(found("b", "bc"), ENDS) == [1.0, 0.4, 1.0, 2.5, 0.5, 2.0, 1.0]
    assert study.judged(found("c", "c", caution=False), ENDS) == [
        0.0,
        0.4,
        0.0,
        2.5,
        10.0,
        1.0,
        0.0,
    ]


def test_a_row_is_the_mean_over_seeds():
    rows = list(study.rows([found("b", "bc"), found("c", "c", caution=False)], ENDS))
    assert rows == ["| 1 | 44 | 2 | 50 % | 40 % | 50 % | 2.5 | 5.2 | 1.5 | 50 % |"]


def test_a_line_says_what_the_run_says():
    ranking = rank_trajectories(make_pool(models=3), "x", info={"num_validation": 44})
    line = study.line(ranking, seed=1, splits=4)
    assert [row["name"] for row in line["models"]] == [row.name for row in ranking.models]
    assert line["expected_regret"] == pytest.approx(ranking.expected_regret, abs=1e-3)
    assert (line["seed"], line["splits"], line["images"]) == (1, 4, 44)


def test_the_committed_table_is_that_of_the_committed_runs():
    lines = study.corpus_lines()
    assert {(each["seed"], each.get("splits")) for each in lines} >= {(0, 1), (0, 4), (0, None)}
    assert study.table(lines, study.truth(lines)).splitlines() == committed("few_images_live")


def test_the_truth_is_the_mean_over_full_runs():
    full = [{"seed": 0, "ends": {"a": 80.0}}, {"seed": 1, "ends": {"a": 90.0}}]
    assert study.truth([found("a", "a"), *full]) == {"a": 85.0}
