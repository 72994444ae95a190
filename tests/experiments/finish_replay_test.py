"""Recorded runs replayed: who is ranked, finished, stopped by patience and kept, at what cost."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from experiments import corpus_files
from experiments import finish_replay as replay
from experiments.finish_replay import Way
from tests.support.corpus_lines import make_line
from tests.support.pool import make_pool

# Model -> validation accuracy after epochs 0 to 8. After 2 epochs: c, b, a, d.
CURVES = {
    "a": (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.95),
    "b": (0.1, 0.3, 0.6, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8),
    "c": (0.1, 0.3, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.85),
    "d": (0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
}
TWO = Way(top=2, epochs=2)


def lines(seed: int) -> list[dict]:
    found = []
    for trajectory, (model, curve) in zip(make_pool(len(CURVES), epochs=8), CURVES.items()):
        line = make_line(dataclasses.replace(trajectory, model=model), seed, curve[-1])
        for columns in line["runs"].values():
            columns["validation_accuracy"] = list(curve)
            columns["validation_loss"] = [1 - accuracy for accuracy in curve]
        found.append(line)
    return found


@pytest.fixture(scope="module")
def runs():
    return replay.recorded("set_embedded", "embedded", [*lines(0), *lines(1)])


def kept(way: Way, runs: replay.Recorded) -> tuple[str, int, int]:
    found = replay.follow(way, runs, 0)
    return runs.models[found.model], found.epochs, found.finished


def test_the_first_are_finished_and_the_better_is_kept(runs):
    """The first two, c and b, go on for 6 epochs; the best of all, a, is third."""
    assert runs.whole("known") == 4 * 8
    assert kept(dataclasses.replace(TWO, choice="last"), runs) == ("c", 4 * 2 + 2 * 6, 2)
    assert kept(TWO, runs) == ("b", 20, 2)  # its best epoch was the third
    assert kept(dataclasses.replace(TWO, choice="loss"), runs) == ("c", 20, 2)
    assert kept(dataclasses.replace(TWO, choice="mean"), runs) == ("b", 20, 2)
    assert kept(dataclasses.replace(TWO, top=1), runs) == ("c", 14, 1)
    assert kept(dataclasses.replace(TWO, top=3), runs) == ("a", 26, 3)
    assert kept(dataclasses.replace(TWO, top=None), runs) == ("a", 32, 4)


def test_patience_ends_a_run_and_its_best_epoch_counts(runs):
    """b: best after 3, so it stops after 5; c gains nothing after 2 and stops after 4."""
    assert kept(dataclasses.replace(TWO, patience=2), runs) == ("b", 4 * 2 + 3 + 2, 2)
    assert kept(dataclasses.replace(TWO, patience=6), runs) == ("b", 20, 2)


def test_epochs_that_were_not_recorded_are_not_looked_at():
    columns = {
        "epoch": [0, 1, 2, 5, 10],
        "validation_accuracy": [0.1, 0.2, 0.5, 0.4, 0.6],
        "validation_loss": [2.0, 1.0, 1.0, 1.0, None],
    }
    way = dataclasses.replace(TWO, patience=3)
    assert replay.train_on(way, columns, 7) == (7, 0.5, 3)
    assert replay.train_on(dataclasses.replace(way, patience=4), columns, 7) == (7, 0.6, 8)
    loss = dataclasses.replace(way, patience=None, choice="loss")
    assert replay.train_on(loss, columns, 7).value == -np.inf


def test_a_trial_is_paid_for_and_other_sets_know_the_rate(tmp_path, monkeypatch):
    """Published weights: at the lower rate a begins better and ends at 0.2, on this set alone."""
    monkeypatch.setattr(corpus_files, "FOLDER", tmp_path)
    found, other = lines(0), lines(0)
    columns = found[0]["runs"]["linear_low"]
    columns["validation_loss"][1], columns["validation_accuracy"][-3:] = 0.0, [0.9, 0.2, 0.2]
    other[1]["runs"]["linear_low"]["validation_accuracy"][-1] = 0.99
    for name, content in (("set_genuine.jsonl", found), ("other_genuine.jsonl", other)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in content))
    names = {f"{name}_genuine.jsonl": {} for name in ("set", "other")}
    (tmp_path / corpus_files.MANIFEST).write_text(json.dumps(names))
    runs = replay.recorded("set_genuine", "genuine", found)
    assert runs.taken["better"][0] == ["linear_low", "linear", "linear", "linear"]
    assert runs.taken["known"][0] == ["linear", "linear_low", "linear", "linear"]
    assert runs.truths[0].tolist() == replay.end_accuracies(runs)[0].tolist()
    assert [runs.whole(rate) for rate in replay.HOW] == [4 * 8, 4 * 9]
    known = Way(top=None, epochs=2, choice="last")
    assert kept(known, runs) == ("a", 32, 4)
    assert kept(dataclasses.replace(known, rate="better"), runs) == ("c", 36, 4)


def test_halving_stops_whom_the_product_stops(runs, monkeypatch: pytest.MonkeyPatch):
    """At epoch 1 it is d, at epoch 2 b, whose later epochs are not shown at epoch 4."""
    asked = []

    def stopped(seen, alive, config, rung, priors):
        asked.append((rung, sorted(alive), [run.epochs for run in seen], priors))
        return {1: {"d": ""}, 2: {"b": ""}}.get(rung, {})

    monkeypatch.setattr(replay.halving, "stopped", stopped)
    way = Way(top=2, epochs=5, strategy="halving", choice="last")
    found = replay.follow(way, runs, 0, {"linear": "others'"})
    assert [run[:3] for run in asked] == [
        (1, ["a", "b", "c", "d"], [1, 1, 1, 1]),
        (2, ["a", "b", "c"], [2, 2, 2, 1]),
        (4, ["a", "c"], [4, 2, 4, 1]),
    ]
    assert all(run[3] == {"linear": "others'"} for run in asked)
    assert (runs.models[found.model], found.epochs) == ("a", 5 + 2 + 5 + 1 + 2 * 3)


def test_lists_train_their_first_models_alone(runs):
    assert replay.follow_list([3, 1, 0, 2], 2, runs, 0) == (1, 2 * 8, 2)
    order = replay.static_order(runs, [runs, runs._replace(name="set_genuine")])
    assert order == [0, 1, 2, 3]  # nothing but the set itself: no rank is known
    worst_first = runs._replace(name="other_embedded", truths=-runs.truths)
    assert [runs.models[i] for i in replay.static_order(runs, [runs, worst_first])] == list("dbca")


def test_scores_are_read_highest_first(runs):
    for value, line in zip((2, 9, 4, 1), runs.lines[0]):
        line["parameters"] = value
    assert replay.score_order("parameters", runs, 0) == [1, 2, 0, 3]
    assert replay.score_order("logme", runs, 0) == [0, 2, 1, 3]  # made from the ends


@pytest.mark.parametrize("top", [1, 2, 3, 4])
def test_chances_of_a_draw_are_those_of_all_draws(top):
    draws = [min(draw) for draw in itertools.combinations(range(4), top)]
    counted = [draws.count(r) / len(draws) for r in range(4)]
    np.testing.assert_allclose(replay.chances_of_choice(top, 4), counted, rtol=1e-12)
