"""The study of the embedded pool on digits: its runs, its tables, what the documents quote."""

from __future__ import annotations

import pathlib

import pytest

from experiments import embedded_study as study
from ncap_jax.zoo import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def corpus():
    return study.read(ROOT / "experiments" / "corpus" / "embedded_digits.jsonl")


def test_the_corpus_is_complete(corpus):
    wanted = {(s.name, h, seed) for s in tiny.SPECS for h in study.HEADS for seed in study.SEEDS}
    assert {(r["model"], r["head"], r["seed"]) for r in corpus} == wanted
    assert len(corpus) == len(wanted)


def test_the_documents_quote_what_the_study_prints(corpus, capsys):
    study.compare(corpus)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    results = (ROOT / "docs" / "results.md").read_text().splitlines()
    assert len(printed) > 30
    assert [line for line in printed if line not in results] == []
