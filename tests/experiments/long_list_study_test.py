"""The study of long lists on made-up runs: prices, the product's own code, equal seconds."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from experiments import build_long_lists, corpus_files, finish_study
from experiments import long_list_replay as replay
from experiments import long_list_study as study
from ncap_jax.options import RankConfig
from ncap_jax.selection import race
from tests.support.tables import committed, rows, without_intervals

NAMES = [spec.name for spec in build_long_lists.candidates()]


def line(place: int, seed: int, *, cold: bool) -> dict:
    """The model at this place: the later, the better, the slower; its features say the same."""
    end = 0.30 + 0.01 * place
    accuracy = [0.1, *(round(end - 0.1 / n, 3) for n in (1, 2, 3, 4, 5)), round(end, 3)]
    epoch = 1.0 + 0.1 * place
    start = 10.0 if cold else 2.0
    cpu = [1.0, start + epoch, *(start + n * epoch for n in (2, 3, 4, 5)), start + 10 * epoch]
    columns = {
        "epoch": [0, 1, 2, 3, 4, 5, 10],
        "validation_accuracy": accuracy,
        "train_accuracy": accuracy,
        "validation_loss": [1.0 - a for a in accuracy],
        "train_loss": [1.0 - a for a in accuracy],
        "running_loss": [None] * 7,
        "cpu": cpu,
    }
    seconds = 3.0 if cold else 1.0
    return {
        "model": NAMES[place],
        "seed": seed,
        "parameters": 1000 * (1 + place),
        "scores": {
            "logme": {"value": float(place), "seconds": seconds},
            "linear_probe": {"value": end, "seconds": seconds + 0.5},
            "nearest_neighbours": {"value": end, "seconds": 0.1},
        },
        "runs": {"linear": columns},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    for name in ("first", "second"):
        lines = [
            line(place, seed, cold=name == "first" and seed == 0)
            for place in range(len(NAMES))
            for seed in (0, 1)
        ]
        if name == "second":
            lines = lines[:-1]  # the last model has one seed here
        text = "".join(json.dumps(each) + "\n" for each in lines)
        (folder / f"{name}_long.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def pools(folder):
    return replay.read_pools(folder)


def test_41_candidates_of_which_14_are_decoys():
    assert len(NAMES) == len(set(NAMES)) == 41
    assert sum(name.startswith(build_long_lists.DECOY) for name in NAMES) == 14
    known = replay.described()
    assert all(np.isneginf(known[n].prior) == n.startswith("untrained_") for n in NAMES)


def test_whole_seeds_are_read_at_the_prices_of_a_first_run(pools):
    assert [(pool.name, pool.seed) for pool in pools] == [("first", 0), ("first", 1), ("second", 0)]
    first, last = pools[-1].models[0], pools[-1].models[-1]
    assert (first.features, first.shared, first.start) == pytest.approx((3.5, 2.0, 10.0))
    assert (first.epoch, last.epoch) == pytest.approx((1.0, 5.0))
    assert (last.end, last.left, last.early.epochs) == (0.70, 5, 5)
    assert pools[0].truth[-1] == pytest.approx(70.0)


def test_a_later_run_has_the_prices_of_compiled_programs(folder, pools):
    later = replay.read_pools(folder, compiled=True)
    model = later[0].models[0]
    assert (model.features, model.shared, model.start) == pytest.approx((1.5, 0.0, 2.0))
    assert model.epoch == pools[0].models[0].epoch
    assert [pool.name for pool in later] == [pool.name for pool in pools]


def test_a_race_over_all_is_the_products_by_its_own_clock(pools):
    pool = pools[0]
    ranking, seconds = replay.rank(pool, NAMES, study.CONFIG, 0.0, frozenset())
    assert ranking.best.name == NAMES[-1]
    ends = {row.name: row.epochs for row in ranking.models}
    assert sum(epochs > 1 for epochs in ends.values()) >= race.kept(41, 1)
    spent = sum(m.start + m.shared + ends[m.early.model] * m.epoch for m in pool.models)
    assert seconds == pytest.approx(spent)
    _, known = replay.rank(pool, NAMES, study.CONFIG, 0.0, frozenset(NAMES))
    assert known == pytest.approx(seconds - sum(m.shared for m in pool.models))


@pytest.mark.parametrize("strategy", ["race", "full"])
def test_a_budget_is_kept(pools, strategy):
    pool = pools[0]
    config = RankConfig(epochs=5, head="linear", strategy=strategy, time_budget=150.0)
    ranking, seconds = replay.rank(pool, NAMES, config, 20.0, frozenset())
    assert 75.0 < seconds <= 150.0
    assert 1 < sum(row.epochs > 0 for row in ranking.models) < 41


def test_two_are_finished_and_the_better_is_kept(pools):
    pool = pools[0]
    outcome = study.raced(pool, study.Turns([3, 40, 7]))
    assert outcome.lost == 0.0
    assert outcome.finish == pytest.approx(5 * (pool.models[40].epoch + pool.models[7].epoch))
    assert study.raced(pool, study.Turns([3, 7])).lost == pytest.approx(33.0)


def test_a_recall_looks_as_long_as_it_may(pools):
    pool = pools[0]
    candidates, spent = study.looked_at(pool, 7.5)
    seen = [each.name for each in candidates if each.scores]
    assert (len(seen), spent) == (3, pytest.approx(10.5))
    everything = study.recalled(pool, 6)
    # Random networks are not worth a look while there are 27 others.
    assert everything.seconds == pytest.approx(27 * 3.5)
    assert everything.seen == frozenset(n for n in NAMES if not n.startswith("untrained_"))
    assert len(everything.order) == 6


def test_every_model_has_an_epoch_and_k_go_on(pools):
    pool = pools[0]
    outcome = study.an_epoch_each(pool, 2)
    firsts = sum(m.start + m.shared + m.epoch for m in pool.models)
    more = sum(4 * m.epoch for m in pool.models[-2:])
    assert outcome.race == pytest.approx(firsts + more)
    assert (outcome.lost, outcome.trained) == (0.0, 41)


def test_k_is_the_largest_of_equal_seconds(pools):
    def way(pool, k):
        return study.Outcome(0.0, 0.0, 10.0 * k, 0.0, k)

    assert study.equal_seconds(pools, way, 35.0) == 3
    assert study.equal_seconds(pools, way, 5.0) == 2
    assert study.equal_seconds(pools, way, 1e9) == 41


def test_the_tables_name_every_way(pools):
    text = study.unlimited_table(pools[:1]) + study.budgets_table(pools[:1])
    for name in (*study.UNLIMITED, *study.WITH_K, *study.IN_TIME):
        assert f"| {name}" in text
    assert "| first | 1 |" in study.sets_table(pools[:1])
    full, raced = study.stated_table(pools[:2]).splitlines()[2:]
    assert full.startswith("| full | 100 % | 0.00 | 0.00 |")
    assert raced.startswith("| race | ")
    assert raced.endswith("| 2 of 2 |")


def test_packing_adds_to_what_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(build_long_lists, "FOLDER", tmp_path / "packed")
    for seed in (0, 1):
        folder = tmp_path / f"work{seed}" / "first" / NAMES[0]
        folder.mkdir(parents=True)
        (folder / f"seed{seed}.json").write_text(json.dumps(line(0, seed, cold=True)))
        build_long_lists.pack(tmp_path / f"work{seed}")
    found = corpus_files.read(build_long_lists.packed("first"))
    assert [each["seed"] for each in found] == [0, 1]
    assert "images" not in build_long_lists.packed("first").read_text()


def test_rows_are_those_of_the_committed_table(monkeypatch):
    """Of the ways whose k need not be found; the slow test has all."""
    monkeypatch.setattr(finish_study, "DRAWS", 1)
    monkeypatch.setattr(study, "WITH_K", {})
    monkeypatch.setattr(study, "UNLIMITED", dict(list(study.UNLIMITED.items())[:2]))
    real = replay.read_pools()
    tables = (study.unlimited_table, study.stated_table, study.forecast_table)
    text = "\n".join(table(real) for table in tables)
    left = without_intervals(committed("long_list_study"))
    printed = without_intervals(rows(text))
    assert [line for line in printed if line not in left] == []
    assert len(printed) == 22


@pytest.mark.slow
def test_all_tables_are_those_that_are_committed(capsys):
    study.main([])
    assert rows(capsys.readouterr().out) == committed("long_list_study")


def test_what_is_foretold_is_asked_after_each_first_epoch(pools):
    """Where all fit, all are foretold as soon as the first one has an epoch."""
    pool = pools[-1]
    config = dataclasses.replace(study.CONFIG, time_budget=1e6)
    said, came = replay.foretold(pool, NAMES, config)
    assert (said, came) == ([41] * 41, 41)
    config = dataclasses.replace(study.CONFIG, time_budget=200.0)
    said, came = replay.foretold(pool, NAMES, config)
    assert len(said) == came < 41
    assert said[-1] == came
    ranking, _ = replay.rank(pool, NAMES, config, 0.0, frozenset())
    assert sum(row.epochs > 0 for row in ranking.models) == came


def test_seconds_that_grow_as_a_power_are_found(pools):
    pool = pools[-1]
    models = tuple(
        model._replace(start=model.parameters**0.25, epoch=2.0 * model.parameters**0.5)
        for model in pool.models
    )
    assert study.growth_of_seconds([pool._replace(models=models)]) == (
        "Seconds to the first step and of an epoch. start: parameters to the power of 0.25, "
        "correlation of the logarithms 1.00; epoch: parameters to the power of 0.50, correlation "
        "of the logarithms 1.00."
    )
