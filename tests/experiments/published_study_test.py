"""Published weights: sets brought to one form, early signals at two rates, the tables."""

from __future__ import annotations

import json

import pytest

from experiments import build_corpus, compare_predictors, corpus_files, published_study, tasks
from ncap_jax.finetune import learning_rates
from ncap_jax.options import RankConfig
from tests.support.corpus_lines import make_line
from tests.support.pool import make_pool, with_last
from tests.support.tables import committed, rows, without_intervals

POOL = build_corpus.POOLS["genuine"]


def test_which_epochs_are_run_and_seen():
    assert POOL.kinds[-1] == "trainable_probe_low"
    assert "trainable_probe_low" not in build_corpus.POOLS["embedded"].kinds
    assert build_corpus.last_epoch("linear_low", POOL, seed=1) == POOL.epochs
    assert build_corpus.last_epoch("probe", POOL, seed=0) == POOL.epochs
    assert build_corpus.last_epoch("probe", POOL, seed=1) == POOL.early
    config = RankConfig(epochs=POOL.epochs)
    for kind in POOL.kinds:
        assert set(range(POOL.early + 1)) <= build_corpus.observed("birds6", kind, POOL, config)
    embedded = build_corpus.POOLS["embedded"]
    config = RankConfig(epochs=20)
    assert min(build_corpus.observed("digits", "linear_low", embedded, config)) == 15
    seen = build_corpus.observed("digits-500", "linear_low", embedded, config)
    assert seen == {0, 1, 2, 3, 4, 5, 20}


@pytest.fixture
def genuine(tmp_path, monkeypatch):
    """Two models; the lower rate is the better one of the second, from its first epoch on."""
    monkeypatch.setattr(corpus_files, "FOLDER", tmp_path)
    lines = []
    for number, trajectory in enumerate(make_pool(2, epochs=6)):
        line = make_line(trajectory, 0, 0.5 + 0.1 * number)
        for kind in ("linear_low", "trainable_probe_low"):
            columns = line["runs"][kind]
            columns["validation_loss"][1] = 9.0 - 8.9 * number
            columns["validation_accuracy"][-1] = 0.4 + 0.4 * number
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "birds6_genuine.jsonl").write_text(text)
    other = {"runs": {"linear": {"validation_accuracy": [0.1, 0.9]}}}
    other["runs"]["linear_low"] = {"validation_accuracy": [0.92]}
    (tmp_path / "digits_embedded.jsonl").write_text(json.dumps(other | {"model": "a", "seed": 0}))
    elsewhere = [
        {
            "model": line["model"],
            "seed": 0,
            "runs": {
                kind: {"validation_accuracy": [end], "validation_loss": [3.0, 1.0]}
                for kind, end in (("linear", 0.2), ("linear_low", 0.4))
            },
        }
        for line in lines
    ]
    (tmp_path / "animals_genuine.jsonl").write_text("\n".join(map(json.dumps, elsewhere)))
    names = ("animals_genuine.jsonl", "birds6_genuine.jsonl", "digits_embedded.jsonl")
    (tmp_path / corpus_files.MANIFEST).write_text(json.dumps({name: {} for name in names}))
    return lines


def test_early_signals_at_the_rate_of_the_better_first_epoch(genuine):
    first, second = genuine
    losses = {
        rate: [
            tasks.early_run(line, "trainable_probe", rate).records[1].validation_loss
            for line in (first, second)
        ]
        for rate in ("high", "low", "better")
    }
    assert losses["low"] == pytest.approx([9.0, 0.1])
    assert losses["better"] == [losses["high"][0], losses["low"][1]]
    assert tasks.early_run(first, "probe", "better").head == "probe"  # at one rate only
    one, both = (tasks.early_run(first, "linear", rate) for rate in ("high", "better"))
    assert both.records[1].seconds == 2 * one.records[1].seconds  # the trial is paid for
    assert both.records[2:] == one.records[2:]


def test_what_the_choice_loses(genuine):
    """Ends of 0.5, 0.4 and 0.6, 0.8: the higher loses 0 and 20 points, the lower 10 and 0.

    On the other set the lower is better for both.
    """
    row, embedded = published_study.choice_table().splitlines()[-2:]
    assert row == "| birds6 | 2 | 10.0 | 5.0 | 50 % | 0.0 | 100 % | 5.0 | 50 % |"
    assert embedded == "| digits, embedded models | 1 | 2.0 | 0.0 | 0 % | | | | |"
    assert "| birds6 | model_1 | 60.0 | 80.0 |" in published_study.ends_table()


def test_the_rates_that_the_product_knows_are_those_of_the_corpus():
    rates = (1e-3, 3e-4)
    found = {model: rates[place] for model, place in tasks.known_rates("genuine").items()}
    assert found == learning_rates.KNOWN
    embedded = tasks.known_rates("embedded")
    assert len(embedded) == 13
    assert [name for name, place in embedded.items() if rates[place] != 1e-3] == []


def test_early_signals_at_the_rate_known_from_other_sets(genuine):
    first, second = genuine
    known = tasks.known_rates("genuine", without="animals")
    assert known == {"model_0": 0, "model_1": 1}
    for line, rate in ((first, "high"), (second, "low")):
        run = tasks.early_run(line, "linear", "known", known)
        assert run == tasks.early_run(line, "linear", rate)


def test_epochs_in_a_row():
    (whole,) = make_pool(1, epochs=6)
    columns = make_line(with_last(whole), 0, 0.9)["runs"]["linear"]
    assert corpus_files.last_in_a_row(columns) == 6
    columns["epoch"] = [0, 1, 2, 9, 4, 5, 6]
    assert corpus_files.last_in_a_row(columns) == 2


def test_the_tables_without_intervals_are_what_the_study_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compare_predictors, "DRAWS", 1)
    published_study.main([])
    printed = without_intervals(rows(capsys.readouterr().out))
    assert len(printed) > 20
    assert printed == without_intervals(committed("published_study"))


@pytest.mark.slow
def test_the_tables_are_what_the_study_prints(capsys):
    published_study.main([])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    file = corpus_files.FOLDER.parent / "tables" / "published_study.md"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(printed) > 20
    assert printed == [line for line in lines if line.startswith("|")]
