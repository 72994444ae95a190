"""Budgets, halving and worker processes with models that really train."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import jax
import pytest

import ncap_jax as ncap
from ncap_jax import candidates, errors
from ncap_jax.finetune import records
from ncap_jax.selection import budget, halving
from ncap_jax.types import ModelSpec
from tests.run_folder_test import Stop, interrupt_after
from tests.small import SmallNet, small_config, small_digits, small_spec

POOL = [small_spec(f"small_{width}", width) for width in (4, 8, 12)]
CONFIG = small_config(epochs=3)
HALVING = dataclasses.replace(CONFIG, strategy="halving", halving_top=1)


@pytest.fixture(scope="module")
def digits():
    return small_digits()


@pytest.fixture(scope="module")
def whole(digits):
    return ncap.rank_models(POOL, digits, CONFIG, show_progress=False)


def timeless(trajectory):
    return [dataclasses.replace(r, seconds=0.0, measure_seconds=0.0) for r in trajectory.records]


def rows(ranking):
    """The table without times; as text, in which NaN equals NaN."""
    return [repr(dataclasses.replace(row, seconds=0.0)) for row in ranking.models]


@pytest.fixture(scope="module", autouse=True)
def the_worst_has_no_chance():
    """So few and small models show no relation of score and accuracy: a rule in its place."""

    def chances(trajectories, contenders, config, rung):
        losses = {
            t.model: t.records[rung].validation_loss for t in trajectories if t.model in contenders
        }
        worst = max(losses, key=losses.__getitem__)
        return {name: 0.0 if name == worst else 0.5 for name in contenders}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halving, "chances", chances)
        yield


def assert_begins_like(ranking, whole):
    for part, full in zip(ranking.trajectories, whole.trajectories, strict=True):
        assert timeless(part) == timeless(full)[: len(part.records)]


def test_a_budget_of_epochs_stops_all_at_the_same_and_a_larger_one_goes_on(digits, whole, tmp_path):
    few = dataclasses.replace(CONFIG, epochs_budget=4)
    ranking = ncap.rank_models(POOL, digits, few, tmp_path, show_progress=False)
    assert [(m.rank, m.status, m.epochs) for m in ranking.models] == [
        (rank, "stopped", 1) for rank in (1, 2, 3)
    ]
    assert ranking.models[0].message == "stopped by epochs_budget=4 after 1 of 3 epochs"
    assert_begins_like(ranking, whole)
    again = ncap.rank_models(POOL, digits, few, tmp_path, show_progress=False)
    assert rows(again) == rows(ranking)  # what was spent stays spent
    more = dataclasses.replace(CONFIG, epochs_budget=9)
    assert rows(ncap.rank_models(POOL, digits, more, tmp_path, show_progress=False)) == rows(whole)


def test_a_budget_of_time_ends_a_model_between_two_steps(digits, whole, monkeypatch):
    """The clock runs out in the second model's second epoch, and nothing is left for the third."""
    asked = []

    def share(self, model, models_left, workers=1):
        asked.append((model, models_left))
        return budget.Share({1: 0.0, 2: 50.0, 3: 1000.0}[models_left], "time_budget")

    def check(self):
        calls = []

        def count():
            calls.append(1)
            if self.seconds == 50.0 and len(calls) == 6:
                raise budget.Spent

        return count

    monkeypatch.setattr(budget.TimeBudget, "share", share)
    monkeypatch.setattr(budget.Share, "check", check)
    config = dataclasses.replace(CONFIG, time_budget=1000.0)
    ranking = ncap.rank_models(POOL, digits, config, show_progress=False)
    assert asked == [("small_4", 3), ("small_8", 2), ("small_12", 1)]
    assert [(m.name, m.rank, m.status, m.epochs) for m in ranking.models] == [
        ("small_4", 1, "ok", 3),
        ("small_8", 2, "stopped", 1),
        ("small_12", None, "stopped", 0),
    ]
    assert ranking.models[1].message == "stopped by time_budget after 1 of 3 epochs"
    assert "before anything was measured" in ranking.models[2].message
    assert_begins_like(ranking, whole)


def test_no_time_no_rank(digits):
    config = dataclasses.replace(CONFIG, time_budget=1e-6)
    ranking = ncap.rank_models(POOL[:2], digits, config, show_progress=False)
    assert [(m.rank, m.status) for m in ranking.models] == [(None, "stopped")] * 2
    with pytest.raises(errors.ModelError, match="no model could be ranked"):
        _ = ranking.best


@pytest.fixture(scope="module")
def halved(digits):
    return ncap.rank_models(POOL, digits, HALVING, show_progress=False)


def test_halving_stops_models_and_changes_no_trajectory(whole, halved):
    assert_begins_like(halved, whole)
    assert [(m.rank, m.status, m.epochs) for m in halved.models] == [
        (1, "ok", 3),
        (2, "stopped", 2),
        (3, "stopped", 1),
    ]
    assert all("stopped by halving" in m.message for m in halved.models[1:])


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        pytest.param("save", 2, marks=pytest.mark.slow),
        ("save", 5),
        pytest.param("finish", 1, marks=pytest.mark.slow),
    ],
)
def test_halving_comes_out_the_same_after_a_kill(
    digits, halved, tmp_path, monkeypatch, method, calls
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, calls, method)
        with pytest.raises(Stop):
            ncap.rank_models(POOL, digits, HALVING, tmp_path, show_progress=False)
    resumed = ncap.rank_models(POOL, digits, HALVING, tmp_path, show_progress=False)
    assert rows(resumed) == rows(halved)


def test_a_halved_run_can_be_finished_in_full(digits, whole, halved, tmp_path):
    ncap.rank_models(POOL, digits, HALVING, tmp_path, show_progress=False)
    full = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    assert rows(full) == rows(whole)


def spawned():
    """Process ids of the workers, oldest first."""
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("ncap_jax")]
    return [p.pid for p in sorted(workers, key=lambda p: p.name)]


def kill_a_worker(folder, model, lines, killed, workers=spawned):
    """SIGKILL the first worker once a model has written so many epochs."""
    trajectory = folder / records.FOLDER / f"{model}.jsonl"
    deadline = time.monotonic() + 400
    while not (trajectory.exists() and trajectory.read_text().count("\n") >= lines):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
    found = workers()
    os.kill(found[0], signal.SIGKILL)
    killed.append(len(found))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "halving"])
def test_two_processes_of_which_one_is_killed_give_what_one_gives(
    digits, whole, halved, tmp_path, strategy
):
    config = dataclasses.replace(
        HALVING if strategy == "halving" else CONFIG, executor="processes", workers=2
    )
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, "small_4", 2, killed))
    killer.start()
    ranking = ncap.rank_models(POOL, digits, config, tmp_path, show_progress=False)
    killer.join()
    assert killed == [2]
    assert rows(ranking) == rows(halved if strategy == "halving" else whole)
    for spec in POOL:
        seen = records.read(tmp_path / records.FOLDER / f"{spec.name}.jsonl")
        assert [r.epoch for r in seen] == list(range(len(seen)))
    assert not multiprocessing.active_children()


def test_a_process_gives_what_this_one_gives(digits, whole):
    config = dataclasses.replace(CONFIG, executor="processes", workers=1)
    ranking = ncap.rank_models(POOL[:1], digits, config, show_progress=False)
    assert timeless(ranking.trajectories[0]) == timeless(whole.trajectories[0])


def test_a_worker_that_does_not_see_the_folder_keeps_its_own(digits, whole, tmp_path):
    specs = {spec.name: spec for spec in POOL}
    work = candidates.join_work(specs, digits, CONFIG, str(tmp_path / "elsewhere"), "digest")
    seen: list[candidates.Seen] = []
    for until in (1, 3):
        trajectory = work(candidates.Order("small_4", until), seen.append)
    assert timeless(trajectory) == timeless(whole.trajectories[0])
    assert [item.record.epoch for item in seen] == [0, 1, 2, 3]
    assert not any(item.written for item in seen)
    assert not list(tmp_path.iterdir())


def test_what_is_kept_of_models_that_left_is_dropped(digits, tmp_path, monkeypatch):
    kept = {}
    original = candidates.Bench

    def bench(*arguments, **named):
        made = original(*arguments, **named)
        kept["now"] = made.kept
        return made

    monkeypatch.setattr(candidates, "Bench", bench)
    specs = {spec.name: spec for spec in POOL}
    work = candidates.join_work(specs, digits, CONFIG, str(tmp_path), "digest")
    both = frozenset({"small_4", "small_8"})
    for name in sorted(both):
        work(candidates.Order(name, 1, alive=both), lambda item: None)
    assert set(kept["now"]) == both
    work(candidates.Order("small_8", 2, alive=frozenset({"small_8"})), lambda item: None)
    assert set(kept["now"]) == {"small_8"}


@pytest.mark.parametrize(("parameters", "forgotten"), [(candidates.LARGE, True), (None, False)])
def test_programs_of_a_large_model_are_forgotten_once_it_ends(
    digits, whole, tmp_path, parameters, forgotten
):
    specs = {s.name: dataclasses.replace(s, parameters=parameters) for s in POOL}
    work = candidates.join_work(specs, digits, CONFIG, str(tmp_path), "digest")
    programs = jax.devices()[0].client.live_executables
    work(candidates.Order("small_4", 1), lambda item: None)
    held = len(programs())  # it pauses, and will call them again
    assert held > 0
    trajectory = work(candidates.Order("small_4", 3), lambda item: None)
    assert timeless(trajectory) == timeless(whole.trajectories[0])
    assert (len(programs()) < held) == forgotten


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"executor": "proceses"}, "Did you mean processes"),
        ({"executor": "local", "workers": 3}, "one process"),
        ({"ray_address": "auto"}, "Use executor='ray'"),
        ({"strategy": "halve"}, "Did you mean halving"),
        ({"time_budget": -1.0}, "positive number of seconds"),
        ({"epochs_budget": 2}, "does not suffice for 3 models"),
    ],
)
def test_options_that_cannot_work_are_refused_first(digits, tmp_path, changes, match):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(errors.ConfigError, match=match):
        ncap.rank_models(POOL, digits, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_sent_is_refused_first(digits, tmp_path):
    spec = ModelSpec("closure", lambda *, rngs, dtype=None: SmallNet(rngs=rngs), 8, 12)
    config = dataclasses.replace(CONFIG, executor="processes")
    with pytest.raises(errors.ConfigError, match="the model 'closure' cannot be sent"):
        ncap.rank_models([spec], digits, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
