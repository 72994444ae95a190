"""The study of the embedded pool on digits: its runs, its tables."""

from __future__ import annotations

import pathlib

import pytest

from experiments import embedded_study as study
from ncap_jax.predictor import PREDICTORS
from ncap_jax.zoo import tiny
from tests.support.tables import CURVES, committed, rows, without_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def corpus():
    return study.read(ROOT / "experiments" / "corpus" / "embedded_digits.jsonl")


def test_the_corpus_is_complete(corpus):
    wanted = {(s.name, h, seed) for s in tiny.SPECS for h in study.HEADS for seed in study.SEEDS}
    assert {(r["model"], r["head"], r["seed"]) for r in corpus} == wanted
    assert len(corpus) == len(wanted)


def test_the_tables_without_curves_are_what_the_study_prints(
    corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    others = {name: method for name, method in PREDICTORS.items() if name not in CURVES}
    monkeypatch.setattr(study, "PREDICTORS", others)
    study.compare(corpus)
    printed = rows(capsys.readouterr().out)
    assert len(printed) > 25
    assert printed == without_rows(committed("embedded_study"), CURVES)


@pytest.mark.slow
def test_the_tables_are_what_the_study_prints(corpus, capsys):
    study.compare(corpus)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    tables = (ROOT / "experiments" / "tables" / "embedded_study.md").read_text(encoding="utf-8")
    assert len(printed) > 30
    assert printed == [line for line in tables.splitlines() if line.startswith("|")]
