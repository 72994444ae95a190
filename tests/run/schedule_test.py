"""Who trains up to which epoch, and who is stopped: budgets, halving, kills in between.

Most of it runs on work that trains nothing but keeps real files; then on models that really train.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import threading

import numpy as np
import pytest

from ncap_jax.finetune import trajectory_files
from ncap_jax.options import RankConfig
from ncap_jax.run import executors
from ncap_jax.run.executors import Local, Lost
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.job import EpochDone
from ncap_jax.run.schedule import Scheduler
from ncap_jax.selection import budget, race
from ncap_jax.selection.budget import TimeShare
from ncap_jax.types import EpochRecord, Trajectory
from tests.support import killing, timed_runs, toy_runs
from tests.support.timed_runs import Pace
from tests.support.toy_runs import CONFIG, Stop, records, rows, stop_after, timeless

NAMES = ("a", "b", "c")
FACTS = {"config": {}, "models": dict.fromkeys(NAMES), "data": {}}
PLAN = RankConfig(epochs=3)
HALVING = dataclasses.replace(PLAN, strategy="halving", halving_top=1)
RACE = dataclasses.replace(PLAN, strategy="race")


def record(model: str, epoch: int) -> EpochRecord:
    """Model a is always the best and c the worst."""
    loss = (1 + NAMES.index(model)) / (1 + epoch)
    return EpochRecord(epoch, loss, 1 - loss / 4, loss, 1 - loss / 4)


class Work:
    """Trains nothing: epochs follow one another from where the model's files end."""

    def __init__(self, files, failures=(), written=True):
        self.files, self.failures, self.written = files, dict(failures), written
        self.tasks: list[tuple[str, int]] = []
        self.shares: dict[str, TimeShare] = {}

    def __call__(self, task, emit):
        self.tasks.append((task.model, task.until))
        self.shares[task.model] = task.share
        store = self.files.checkpoints(task.model)
        seen = list(self.files.position(task.model).records) if self.written else []
        for epoch in range(len(seen), task.until + 1):
            if self.failures.get(task.model) == epoch:
                return Trajectory(task.model, "linear", tuple(seen), "failed", "broken")
            seen.append(record(task.model, epoch))
            if self.written:
                self.files.append(task.model, seen[-1])
            emit(EpochDone(seen[-1], self.written))
            if self.written and epoch < PLAN.epochs:
                store.save(epoch, {"w": np.zeros(1)})
        status = "ok" if task.until == PLAN.epochs else "stopped"
        return Trajectory(task.model, "linear", tuple(seen), status)


class Watcher:
    def __init__(self):
        self.epochs: list[tuple[str, int]] = []
        self.ends: list[str] = []

    def epoch(self, model, record):
        self.epochs.append((model, record.epoch))

    def finished(self, trajectory):
        self.ends.append(trajectory.model)


@dataclasses.dataclass
class Outcome:
    trajectories: tuple[Trajectory, ...]
    work: Work
    watcher: Watcher

    @property
    def ends(self):
        return {t.model: (t.status, t.epochs) for t in self.trajectories}


def run(path, config=PLAN, make=Work, clock=None, executor=Local):
    with RunFolder(path, FACTS) as folder:
        work, watcher = make(folder.files), Watcher()
        clock = clock or budget.TimeBudget(config, 0.0, clock=lambda: 0.0)
        scheduler = Scheduler(NAMES, config, folder, watcher, clock, recorded=folder.recorded())
        with executor(lambda: work) if scheduler.unfinished() else contextlib.nullcontext() as pool:
            scheduler.run(pool)
        return Outcome(scheduler.trajectories(), work, watcher)


@pytest.fixture
def the_worst_has_no_chance(monkeypatch):
    killing.the_worst_has_no_chance(monkeypatch)


def test_each_model_runs_all_its_epochs_at_once(tmp_path):
    outcome = run(tmp_path)
    assert outcome.work.tasks == [("a", 3), ("b", 3), ("c", 3)]
    assert outcome.ends == dict.fromkeys(NAMES, ("ok", 3))
    assert outcome.watcher.epochs == [(name, epoch) for name in NAMES for epoch in range(4)]
    assert outcome.watcher.ends == list(NAMES)


def test_models_that_ended_are_told_and_not_run_again(tmp_path):
    first, again = run(tmp_path), run(tmp_path)
    assert again.work.tasks == again.watcher.epochs == []
    assert again.watcher.ends == list(NAMES)
    assert repr(again.trajectories) == repr(first.trajectories)


def test_a_failed_model_costs_the_others_nothing_and_is_tried_again(tmp_path):
    first = run(tmp_path, make=lambda files: Work(files, {"a": 2}))
    assert first.ends == {"a": ("failed", 1), "b": ("ok", 3), "c": ("ok", 3)}
    again = run(tmp_path)
    assert again.work.tasks == [("a", 3)]
    assert again.watcher.epochs == [("a", 2), ("a", 3)]  # from where it was
    assert again.ends == dict.fromkeys(NAMES, ("ok", 3))


def test_a_budget_of_epochs_stops_all_at_the_same(tmp_path):
    outcome = run(tmp_path, dataclasses.replace(PLAN, epochs_budget=4))
    assert outcome.ends == dict.fromkeys(NAMES, ("stopped", 1))
    assert {t.message for t in outcome.trajectories} == {
        "stopped by epochs_budget=4 after 1 of 3 epochs"
    }


def test_what_was_spent_stays_spent_and_a_larger_budget_resumes(tmp_path):
    few = dataclasses.replace(PLAN, epochs_budget=4)
    first, again = run(tmp_path, few), run(tmp_path, few)
    assert again.watcher.epochs == []
    assert again.ends == first.ends
    more = run(tmp_path, dataclasses.replace(PLAN, epochs_budget=9))
    assert more.watcher.epochs == [(name, epoch) for name in NAMES for epoch in (2, 3)]
    assert more.ends == dict.fromkeys(NAMES, ("ok", 3))


def test_what_a_failed_model_leaves_goes_to_the_others(tmp_path):
    """Of five epochs each model gets one; c fails, and the two left take another each."""
    config = dataclasses.replace(PLAN, epochs_budget=5)
    outcome = run(tmp_path, config, lambda files: Work(files, {"c": 1}))
    assert outcome.ends == {"a": ("stopped", 2), "b": ("stopped", 2), "c": ("failed", 0)}
    assert outcome.work.tasks == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2)]


def test_a_model_has_one_budget_for_all_its_turns(tmp_path, the_worst_has_no_chance):
    now = 0.0

    class Slow(Work):
        def __call__(self, task, emit):
            nonlocal now
            now += 10.0
            return super().__call__(task, emit)

    config = dataclasses.replace(HALVING, model_time_budget=60.0)
    clock = budget.TimeBudget(config, 0.0, lambda: now)
    outcome = run(tmp_path, config, Slow, clock)
    assert outcome.work.shares == {
        "a": TimeShare(own=40.0, answered=True),  # its third turn
        "b": TimeShare(own=50.0, answered=True),
        "c": TimeShare(own=60.0),
    }


# Models that take the time that a test says, by a clock of their own.

FIT = ["m00", "m01", "m02"]


def test_where_not_all_models_fit_they_are_trained_one_after_another(capsys):
    """Of 38 models with a start of 10 seconds an even share is 1.5: nobody would be ranked."""
    outcome = timed_runs.rank(timed_runs.models(38), time_budget=60.0, show_progress=True)
    ends = outcome.epochs
    assert ends == {**dict.fromkeys(FIT, ("ok", 5)), "m03": ("stopped", 2)}
    assert len(outcome.messages) == 34
    assert set(outcome.messages.values()) == {
        "stopped by time_budget before anything was measured: no time was left"
    }
    assert outcome.ranking.models[3].name == "m03"  # below those that ran to the end
    # The plan, 15 seconds after the start: 3 models and 42 seconds were still to come.
    said = capsys.readouterr().err
    assert "Time budget: of the 37 models left about 4 will be trained, in 42.0 s." in said
    assert abs(outcome.seconds - 57.0) < 0.2 * 57.0


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (60.0, {"m00": ("ok", 5), "m01": ("ok", 5), "m02": ("stopped", 2)}),
        (100.0, {**dict.fromkeys(FIT, ("stopped", 4)), "m03": ("ok", 5)}),
    ],
)
def test_starts_longer_than_an_even_share(budget, expected):
    """Five models; in 60 seconds a share is 11 and in 100 it is 19; a start takes 15 or 18."""
    pace = Pace(start={"m00": 15.0, "m01": 15.0, "m02": 15.0, "m03": 18.0, "m04": 18.0})
    outcome = timed_runs.rank(timed_runs.models(5), pace, time_budget=budget)
    assert outcome.epochs == expected
    assert outcome.seconds <= budget


def test_where_all_models_fit_they_have_about_the_same_epochs():
    """Long epochs: an even share of 3,595 seconds is two of them for each of five models."""
    pace = Pace(start=20.0, epoch=300.0)
    outcome = timed_runs.rank(timed_runs.models(5), pace, time_budget=3600.0)
    assert list(outcome.epochs.values()) == [("stopped", 2)] * 5


def test_a_quick_start_among_slow_ones_is_no_disadvantage():
    """After the first model an even share is 4.7 seconds; the second model needs 7."""
    pace = Pace(start={"m00": 19.0, "m01": 2.0, "m02": 30.0, "m03": 30.0}, epoch=1.0)
    outcome = timed_runs.rank(timed_runs.models(4), pace, time_budget=40.0)
    assert outcome.epochs == {"m00": ("ok", 5), "m01": ("ok", 5)}


def test_one_model_does_not_take_all_the_time_for_long_epochs():
    """An even share is 199 seconds, less than an epoch: the first model has two, not all five."""
    pace = Pace(start=20.0, epoch=300.0)
    outcome = timed_runs.rank(timed_runs.models(5), pace, time_budget=1000.0)
    assert outcome.epochs == {"m00": ("stopped", 2), "m01": ("stopped", 1)}


def test_a_model_that_cannot_have_an_epoch_is_not_started():
    """After two models of 21 seconds 15 are left: the third would be stopped before an epoch."""
    pace = Pace(start=20.0, epoch=1.0)
    specs = timed_runs.models(4)
    outcome = timed_runs.rank(specs, pace, time_budget=60.0, epochs=1)
    assert outcome.epochs == {"m00": ("ok", 1), "m01": ("ok", 1)}
    assert outcome.messages == dict.fromkeys(
        ("m02", "m03"),
        "stopped by time_budget before anything was measured: 15.0 seconds were left, and a first "
        "epoch was expected to take 21.0 or more",
    )
    assert outcome.seconds == pytest.approx(42.0)


@pytest.mark.filterwarnings("ignore:time_budget")
@pytest.mark.parametrize("budget", [1e-6, 10.0])
def test_a_budget_below_one_start_is_answered_all_the_same(budget):
    outcome = timed_runs.rank(timed_runs.models(3), Pace(start=20.0), time_budget=budget)
    assert outcome.epochs == {"m00": ("stopped", 1)}
    assert outcome.ranking.best.name == "m00"
    assert outcome.seconds == pytest.approx(21.0)


def test_a_budget_below_every_start_is_doubted_before_anything_is_trained():
    with pytest.warns(UserWarning, match="time_budget=2 leaves 1.9 seconds for training"):
        timed_runs.rank(timed_runs.models(2), Pace(failing=("m00", "m01")), time_budget=2.0)


def test_if_the_first_model_fails_the_next_one_has_its_epoch():
    pace = Pace(start=20.0, failing=("m00",))
    outcome = timed_runs.rank(timed_runs.models(4), pace, time_budget=10.0)
    assert outcome.epochs == {"m01": ("stopped", 1)}


def test_several_workers_share_the_time():
    """Two workers train three models each to the end, and begin another."""
    outcome = timed_runs.rank(timed_runs.models(38), workers=2, time_budget=60.0)
    assert list(outcome.epochs.values()) == [("ok", 5)] * 6 + [("stopped", 2)] * 2
    assert outcome.seconds == pytest.approx(57.0)


def test_of_several_workers_one_has_an_epoch_however_late():
    outcome = timed_runs.rank(timed_runs.models(5), Pace(20.0), workers=2, time_budget=10.0)
    assert outcome.epochs == {"m00": ("stopped", 1)}
    assert outcome.seconds == pytest.approx(21.0)


def test_models_refused_while_the_first_was_under_way_have_their_turn_if_it_fails():
    """When m00 fails the time is over, m01 stopped, and the others have been refused."""
    pace = Pace(start=20.0, failing=("m00",))
    outcome = timed_runs.rank(timed_runs.models(5), pace, workers=2, time_budget=10.0)
    assert outcome.epochs == {"m02": ("stopped", 1)}
    assert outcome.messages["m03"].endswith(": no time was left")


def test_every_model_has_an_epoch_whatever_its_own_budget():
    """A start takes 20 seconds: with 5 a model has its first epoch, with 23 two more."""
    for seconds, epochs in ((5.0, 1), (23.0, 3)):
        pace, specs = Pace(start=20.0), timed_runs.models(3)
        outcome = timed_runs.rank(specs, pace, model_time_budget=seconds)
        assert list(outcome.epochs.values()) == [("stopped", epochs)] * 3
        (message,) = {row.message for row in outcome.ranking.models}
        assert message == f"stopped by model_time_budget after {epochs} of 5 epochs"


def test_a_models_own_budget_does_not_lengthen_the_whole_one():
    limits = {"model_time_budget": 5.0, "time_budget": 50.0}
    outcome = timed_runs.rank(timed_runs.models(3), Pace(start=20.0), **limits)
    assert outcome.epochs == {"m00": ("stopped", 1), "m01": ("stopped", 1)}


def test_the_models_that_start_soonest_start_first():
    large, small = timed_runs.models(2)
    large = dataclasses.replace(large, parameters=10**6)
    outcome = timed_runs.rank([large, small], Pace(20.0), time_budget=10.0)
    assert list(outcome.epochs) == [small.name]
    assert [t.model for t in outcome.ranking.trajectories] == [large.name, small.name]


def test_the_same_command_again_goes_further(tmp_path):
    """Three calls train four models; one is stopped on the way, and the numbers are the same."""
    specs, counts = timed_runs.models(4), []
    for _ in range(3):
        outcome = timed_runs.rank(specs, folder=tmp_path, time_budget=30.0)
        counts.append([status for status, _ in outcome.epochs.values()].count("ok"))
    assert counts == [1, 3, 4]
    whole = timed_runs.rank(specs, strategy="full")
    assert rows(outcome.ranking) == rows(whole.ranking)


def test_halving_stops_the_worst_at_each_rung(tmp_path, the_worst_has_no_chance):
    outcome = run(tmp_path, HALVING)
    assert outcome.ends == {"a": ("ok", 3), "b": ("stopped", 2), "c": ("stopped", 1)}
    assert [t.message for t in outcome.trajectories] == [
        "",
        "stopped by halving after 2 of 3 epochs: its chance of being the best is 0.0 %",
        "stopped by halving after 1 of 3 epochs: its chance of being the best is 0.0 %",
    ]
    assert outcome.work.tasks == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)]


@pytest.fixture
def two_are_enough(monkeypatch):
    """Of three models the race stops one; otherwise it leaves so few alone."""
    monkeypatch.setattr(race, "LEAST", 2)


def test_a_race_stops_by_its_schedule(tmp_path, two_are_enough):
    """Of three, half are two; nobody is stopped after the second epoch."""
    outcome = run(tmp_path, RACE)
    assert outcome.ends == {"a": ("ok", 3), "b": ("ok", 3), "c": ("stopped", 1)}
    assert outcome.trajectories[2].message == (
        "stopped by the race after 1 of 3 epochs: in place 3 of 3, and 2 continue"
    )
    assert outcome.work.tasks == [(name, 1) for name in "abc"] + [
        (name, epoch) for epoch in (2, 3) for name in "ab"
    ]


@pytest.mark.parametrize(("method", "calls"), [("save", 2), ("append", 7), ("finish", 1)])
def test_a_race_comes_out_the_same_after_a_kill(
    tmp_path, monkeypatch, two_are_enough, method, calls
):
    expected = run(tmp_path / "whole", RACE)
    with monkeypatch.context() as patch:
        stop_after(patch, calls, method)
        with pytest.raises(Stop):
            run(tmp_path / "cut", RACE)
    resumed = run(tmp_path / "cut", RACE)
    assert repr(resumed.trajectories) == repr(expected.trajectories)


@pytest.mark.parametrize(
    ("method", "calls"), [("save", 2), ("append", 4), ("save", 5), ("finish", 1), ("finish", 2)]
)
def test_halving_comes_out_the_same_after_a_kill(
    tmp_path, monkeypatch, the_worst_has_no_chance, method, calls
):
    expected = run(tmp_path / "whole", HALVING)
    with monkeypatch.context() as patch:
        stop_after(patch, calls, method)
        with pytest.raises(Stop):
            run(tmp_path / "cut", HALVING)
    resumed = run(tmp_path / "cut", HALVING)
    assert repr(resumed.trajectories) == repr(expected.trajectories)


def test_a_model_that_ended_in_an_earlier_call_is_a_rival_still(
    tmp_path, monkeypatch, the_worst_has_no_chance
):
    """Without a, which came to its end before, b would be the only one left at the second rung."""
    with monkeypatch.context() as patch:
        stop_after(patch, 1, "finish")
        with pytest.raises(Stop):
            run(tmp_path)
    assert run(tmp_path, HALVING).ends == {
        "a": ("ok", 3),
        "b": ("stopped", 2),
        "c": ("stopped", 1),
    }


def test_a_halved_run_can_be_finished_in_full(tmp_path, the_worst_has_no_chance):
    run(tmp_path, HALVING)
    full = run(tmp_path)
    assert full.ends == dict.fromkeys(NAMES, ("ok", 3))
    assert full.watcher.epochs == [("b", 3), ("c", 2), ("c", 3)]


def test_what_a_worker_cannot_write_is_written_here(tmp_path):
    """Its machine does not see the folder; a model that starts again there starts again here."""
    for _ in range(2):
        run(tmp_path, make=lambda files: Work(files, {"b": 2}, written=False))
    found = trajectory_files.read(tmp_path / "trajectories" / "a.jsonl")
    assert [r.epoch for r in found] == [0, 1, 2, 3]
    found = trajectory_files.read(tmp_path / "trajectories" / "b.jsonl")
    assert [r.epoch for r in found] == [0, 1]


def test_a_model_whose_workers_all_died_fails_with_what_it_has(tmp_path):
    class Deadly(executors.Local):
        def run(self, names, make_task, on_item, on_end):
            def ended(name, result):
                on_end(name, Lost("its worker ended 3 times") if name == "b" else result)

            super().run(names, make_task, on_item, ended)

    outcome = run(tmp_path, dataclasses.replace(PLAN, epochs_budget=6), executor=Deadly)
    assert outcome.ends["b"] == ("failed", 2)
    assert outcome.trajectories[1].message == "its worker ended 3 times"
    assert outcome.ends["a"][0] == "stopped"


# Models that really train.


@pytest.fixture(scope="module")
def whole():
    return toy_runs.rank(models=3)


def assert_begins_like(ranking, whole):
    for part, full in zip(ranking.trajectories, whole.trajectories, strict=True):
        assert records(part) == records(full)[: len(part.records)]


def test_pauses_change_no_number(whole, tmp_path, the_worst_has_no_chance):
    """By halving, then by a budget of epochs, then to the end."""
    halving = dataclasses.replace(CONFIG, strategy="halving", halving_top=1)
    halved = toy_runs.rank(tmp_path, halving, models=3)
    assert sorted((m.rank, m.status, m.epochs) for m in halved.models) == [
        (1, "ok", 3),
        (2, "stopped", 2),
        (3, "stopped", 1),
    ]
    assert_begins_like(halved, whole)
    few = toy_runs.rank(tmp_path, dataclasses.replace(CONFIG, epochs_budget=8), models=3)
    assert_begins_like(few, whole)
    assert rows(toy_runs.rank(tmp_path, models=3)) == rows(whole)


def test_a_budget_of_time_ends_a_model_between_two_steps(whole, monkeypatch):
    """The time is over in the second model's second epoch, and nothing is left for the third."""
    shares = {
        "toy_1": TimeShare(rest=1000.0),
        "toy_2": TimeShare(rest=50.0),
        "toy_3": TimeShare(refusal="no time was left"),
    }

    def check(self):
        calls = []

        class Count:
            def __call__(deadline):
                calls.append(1)
                if self.rest == 50.0 and len(calls) == 7:
                    raise budget.TimeIsUp("time_budget")

            def epoch(deadline, number):
                pass

        return Count()

    begin = budget.TimeBudget.begin

    def share(self, model, *left):
        begin(self, model, *left)
        return shares[model]

    monkeypatch.setattr(budget.TimeBudget, "begin", share)
    monkeypatch.setattr(budget.TimeShare, "deadline", check)
    config = dataclasses.replace(CONFIG, time_budget=1000.0)
    ranking = toy_runs.rank(config=config, models=3)
    ends = {m.name: (m.status, m.epochs, m.message) for m in ranking.models}
    assert ends == {
        "toy_1": ("ok", 3, ends["toy_1"][2]),
        "toy_2": ("stopped", 1, "stopped by time_budget after 1 of 3 epochs"),
        "toy_3": (
            "stopped",
            0,
            "stopped by time_budget before anything was measured: no time was left",
        ),
    }
    assert {m.name for m in ranking.models if m.rank is None} == {"toy_3"}
    assert_begins_like(ranking, whole)


@pytest.mark.filterwarnings("ignore:time_budget")
def test_no_time_is_an_epoch_of_one_model(whole):
    ranking = toy_runs.rank(config=dataclasses.replace(CONFIG, time_budget=1e-6))
    assert [(m.rank, m.status, m.epochs) for m in ranking.models] == [
        (1, "stopped", 1),
        (None, "stopped", 0),
    ]
    assert records(ranking.trajectories[0]) == records(whole.trajectories[0])[:2]


def test_a_worker_that_is_killed_resumes_to_what_this_process_gives(whole, tmp_path, monkeypatch):
    # What the first worker compiles the second one reads.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    config = dataclasses.replace(CONFIG, executor="processes", workers=1)
    killed: list[int] = []
    killer = threading.Thread(target=killing.kill_a_worker, args=(tmp_path, "toy_1", 2, killed))
    killer.start()
    ranking = toy_runs.rank(tmp_path, config, models=1)
    killer.join()
    assert killed == [1]
    assert records(ranking.trajectories[0]) == records(whole.trajectories[0])
    lines = trajectory_files.read(tmp_path / trajectory_files.FOLDER / "toy_1.jsonl")
    assert [r.epoch for r in lines] == [0, 1, 2, 3]
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "race", "halving"])
def test_two_processes_of_which_one_is_killed_give_what_one_gives(
    tmp_path, the_worst_has_no_chance, two_are_enough, strategy
):
    config = dataclasses.replace(CONFIG, strategy=strategy, halving_top=1)
    expected = toy_runs.rank(config=config, models=3)
    config = dataclasses.replace(config, executor="processes", workers=2)
    killed: list[int] = []
    killer = threading.Thread(target=killing.kill_a_worker, args=(tmp_path, "toy_1", 2, killed))
    killer.start()
    ranking = toy_runs.rank(tmp_path, config, models=3)
    killer.join()
    assert killed == [2]
    assert timeless(ranking) == timeless(expected)
    assert not multiprocessing.active_children()
