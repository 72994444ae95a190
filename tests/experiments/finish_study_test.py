"""How many of the ranking to finish: the tables are what the study prints."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from experiments import finish_replay as replay
from experiments import finish_study as study
from experiments.tasks import POOLS
from ncap_jax.predictor import growth
from tests.support.tables import committed, rows, without_intervals


@pytest.fixture(scope="module")
def pools():
    return {pool: replay.read_pool(pool) for pool in POOLS}


def test_rows_that_read_no_constants_are_those_of_the_tables(
    pools, monkeypatch: pytest.MonkeyPatch
):
    """Without halving, whose chances take most of the time, and without the intervals."""
    monkeypatch.setattr(study, "DRAWS", 1)
    plain = {name: way for name, way in study.WAYS.items() if way.strategy != "halving"}
    monkeypatch.setattr(study, "WAYS", plain)
    found = study.everything(pools, defaultdict(lambda: growth.PRIORS))
    names = [runs.name for sets in pools.values() for runs in sets]
    tables = [study.main_table(found, names, pool) for pool in (None, *POOLS)]
    printed = without_intervals(rows("\n".join(tables)))
    assert len(printed) == 3 * (2 + len(plain) + 8)
    left = iter(without_intervals(committed("finish_study")))
    assert [line for line in printed if line not in left] == []  # in this order


def test_the_product_keeps_its_targets(pools):
    """At most 0.7 points on average, 45 % of all epochs embedded and 60 % published."""
    priors = defaultdict(lambda: growth.PRIORS)
    found = {pool: study.replay_way(study.PRODUCT, sets, priors) for pool, sets in pools.items()}
    lost = [r.lost[:, 0].mean() for results in found.values() for r in results]
    assert np.mean(lost) <= 0.7
    share = {pool: np.mean([r.shares for r in results]) for pool, results in found.items()}
    assert share["embedded"] <= 0.45
    assert share["genuine"] <= 0.60


def test_points_are_lost_against_three_truths(pools):
    """The model that is kept, against the best by all seeds, its own and the others."""
    runs = pools["embedded"][0]
    mean, model = runs.truths.mean(axis=0), 3
    found = study.lost(runs, 0, np.eye(len(runs.models))[model])
    others = runs.truths[1:].mean(axis=0)
    ends = replay.end_accuracies(runs)[0]
    expected = [
        mean.max() - mean[model],
        runs.truths[0].max() - ends[model],
        others.max() - others[model],
    ]
    np.testing.assert_allclose(found, 100 * np.array(expected), rtol=1e-9)


def test_rivals_get_as_many_epochs_as_the_product_or_fewer(pools):
    sets = pools["genuine"][:2]
    product = study.replay_way(study.PRODUCT, sets, defaultdict(lambda: growth.PRIORS))
    assert [len(runs.models) for runs in sets] == [14, 14]
    assert product[0].shares.tolist() == pytest.approx([(14 * 5 + 2 * 5) / 140] * 3)
    listed = study.replay_rival(study.rivals(sets)["static list"], None, sets, product)
    assert listed[0].finished.tolist() == [8] * 3  # of 14; the product pays for eight and a half
    assert listed[0].shares.tolist() == pytest.approx([8 / 14] * 3)


@pytest.mark.slow
def test_the_tables_are_what_the_study_prints(capsys):
    study.main([])
    printed = rows(capsys.readouterr().out)
    assert len(printed) > 70
    assert printed == committed("finish_study")
