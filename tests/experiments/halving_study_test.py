"""The study behind successive halving: what it prints is in its tables."""

from __future__ import annotations

import pathlib

import pytest

from experiments import halving_study as study
from ncap_jax.options import HEADS, Head, RankConfig
from tests.support.tables import committed

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pools():
    return study.read()


@pytest.mark.parametrize("head", HEADS)
def test_the_rows_of_the_defaults_are_those_of_the_tables(pools, head: Head):
    config = RankConfig()
    row = study.table_row(pools, head, config.halving_top, config.halving_threshold)
    assert row in committed("halving_study")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tables_are_what_the_study_prints(pools, capsys):
    study.print_table(pools)
    study.print_calibration(pools, 3)
    study.print_table([part for pool in pools for part in study.smaller(pool, 8, 5)])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    tables = (ROOT / "experiments" / "tables" / "halving_study.md").read_text(encoding="utf-8")
    assert len(printed) > 50
    assert printed == [line for line in tables.splitlines() if line.startswith("|")]


def test_a_smaller_pool_is_a_part(pools):
    for part in study.smaller(pools[0], 8, 3):
        assert len({t.model for t in part.trajectories}) == 8
        assert {t.model for t in part.trajectories} <= {t.model for t in pools[0].trajectories}


def test_nothing_is_saved_where_nobody_may_be_stopped(pools):
    config = RankConfig(epochs=5, strategy="halving", halving_top=13)
    outcome = study.judge(pools[0], config)
    assert outcome[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert outcome.regret == outcome.full_regret
