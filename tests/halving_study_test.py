"""The study behind successive halving: what it prints of the whole pools is what is documented."""

from __future__ import annotations

import pathlib

import pytest

from experiments import halving_study as study
from ncap_jax.types import RankConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pools():
    return study.read()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_documents_quote_what_the_study_prints(pools, capsys):
    study.print_table(pools)
    study.print_calibration(pools, 3)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    results = (ROOT / "docs" / "results.md").read_text().splitlines()
    assert len(printed) > 25
    assert [line for line in printed if line not in results] == []


def test_a_smaller_pool_is_a_part(pools):
    for part in study.smaller(pools[0], 8, 3):
        assert len({t.model for t in part.trajectories}) == 8
        assert {t.model for t in part.trajectories} <= {t.model for t in pools[0].trajectories}


def test_nothing_is_saved_where_nobody_may_be_stopped(pools):
    config = RankConfig(epochs=5, strategy="halving", halving_top=13)
    outcome = study.judge(pools[0], config)
    assert outcome[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert outcome.regret == outcome.full_regret
