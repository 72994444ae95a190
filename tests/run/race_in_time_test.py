"""A race in a time budget: with how many models it begins, who goes on, and what is said."""

from __future__ import annotations

import collections
import dataclasses
import re

import pytest

from ncap_jax.report import progress
from ncap_jax.selection import race
from tests.support import timed_runs
from tests.support.timed_runs import Pace

QUICK = Pace(start=4.0, epoch=1.0)


def ends(outcome: timed_runs.Outcome) -> list[int]:
    """Epochs of the models that have one, most first."""
    return sorted((epochs for _, epochs in outcome.epochs.values()), reverse=True)


def test_it_begins_with_as_many_models_as_it_can_bring_to_its_end(capsys):
    """Eight take 40 seconds for an epoch each, and the race after them 4 + 3 + 3 + 3."""
    outcome = timed_runs.rank(
        timed_runs.models(38), QUICK, time_budget=60.0, strategy="auto", show_progress=True
    )
    assert outcome.ranking.config.strategy == "race"
    assert ends(outcome) == [5, 5, 5, 2, 1, 1, 1, 1]
    assert outcome.seconds == pytest.approx(53.0)
    said = capsys.readouterr().err
    assert "Time budget: about 11 of 38 models will race, in 52.0 s." in said
    # The first one's five seconds promised too much: the next ones were expected to take half.
    assert "Time budget: now about 8 of 38 models will race, in 32.0 s." in said
    assert said.count("models will race") == 2, said
    (why,) = set(outcome.messages.values())
    assert why == (
        "stopped by time_budget before anything was measured: 3.0 seconds were left beside the "
        "race's later epochs, and a first epoch was expected to take about 5.0"
    )


@pytest.mark.parametrize(("telling", "promised"), [(progress.TELLING, False), (1, True)])
def test_what_a_quick_second_model_promises_is_not_said(capsys, monkeypatch, telling, promised):
    """Its seconds would raise what is foretold, and the next ones lower it again."""
    monkeypatch.setattr(progress, "TELLING", telling)
    quick = [collections.defaultdict(lambda s=s: s, m01=0.05) for s in (4.0, 1.0)]
    pace = Pace(*quick)
    timed_runs.rank(
        timed_runs.models(38), pace, time_budget=60.0, strategy="race", show_progress=True
    )
    lines = capsys.readouterr().err.splitlines()
    told = [place for place, line in enumerate(lines) if "models will race" in line]
    third = next(place for place, line in enumerate(lines) if line.startswith("m02: epoch 1/5"))
    assert lines[told[0]].startswith("Time budget: about 11 of 38")
    assert any(place < third for place in told[1:]) == promised


def test_all_models_but_a_few_race_where_there_is_time():
    """A race of six takes 30 seconds to the first epoch of all, and 12 more."""
    outcome = timed_runs.rank(timed_runs.models(6), QUICK, time_budget=60.0, strategy="race")
    unlimited = timed_runs.rank(timed_runs.models(6), QUICK, strategy="race")
    assert outcome.epochs == unlimited.epochs


def test_more_models_than_one_after_another():
    found = {
        strategy: timed_runs.rank(
            timed_runs.models(38), QUICK, time_budget=120.0, strategy=strategy
        )
        for strategy in ("full", "race")
    }
    assert len(found["race"].epochs) == 18
    assert len(found["full"].epochs) == 13
    assert all(outcome.seconds <= 120.0 for outcome in found.values())


def test_a_slow_model_does_not_take_the_time_of_the_race():
    """It is stopped within its first epoch; a step late, which costs two epochs."""
    pace = Pace(start=4.0, epoch=dict.fromkeys(("m00", "m01", "m02"), 1.0) | {"m03": 100.0})
    outcome = timed_runs.rank(timed_runs.models(4), pace, time_budget=60.0, strategy="race")
    assert ends(outcome) == [5, 3, 1]
    assert outcome.messages == {"m03": "stopped by time_budget before its first epoch was finished"}
    assert outcome.seconds <= 60.0


def test_those_that_are_alike_go_on_as_far_as_there_is_time(monkeypatch):
    """Nobody would be stopped; 44 seconds after the first epochs are enough for three."""
    monkeypatch.setattr(race, "_alike", lambda *arguments: True)
    pace = Pace(start=2.0, epoch=3.5)
    outcome = timed_runs.rank(timed_runs.models(5), pace, time_budget=75.0, strategy="race")
    assert ends(outcome) == [5, 5, 5, 1, 1]
    messages = [row.message for row in outcome.ranking.models if row.epochs == 1]
    assert messages == [
        f"stopped by the race after 1 of 5 epochs: in place {place} of 5, and time_budget leaves "
        "time for 3"
        for place in (4, 5)
    ]
    assert outcome.seconds <= 75.0


def test_two_workers_race_with_twice_as_many():
    outcome = timed_runs.rank(
        timed_runs.models(38), QUICK, workers=2, time_budget=60.0, strategy="race"
    )
    assert len(outcome.epochs) == 16
    assert ends(outcome)[0] == 5
    assert outcome.seconds <= 60.0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("budget", [20.0, 60.0, 120.0])
def test_unequal_models_are_ranked_in_time(workers, budget):
    """Later ones take longer to start and to train; somebody always comes to a second epoch."""
    names = [spec.name for spec in timed_runs.models(38)]
    pace = Pace(
        {name: 4.0 + place for place, name in enumerate(names)},
        {name: 1.0 + 0.2 * place for place, name in enumerate(names)},
    )
    outcome = timed_runs.rank(
        timed_runs.models(38), pace, workers=workers, time_budget=budget, strategy="race"
    )
    assert outcome.seconds <= budget
    assert max(ends(outcome)) > 1


def test_the_same_command_again_lets_others_race(tmp_path, capsys):
    """Nothing is trained twice, and the epochs are those of a run without a budget."""
    specs = timed_runs.models(12)
    counts, said = [], []
    for _ in range(3):
        outcome = timed_runs.rank(
            specs, QUICK, folder=tmp_path, time_budget=40.0, strategy="race", show_progress=True
        )
        counts.append(len(outcome.epochs))
        said.append(re.findall(r"about (\d+) of 12 models will race", capsys.readouterr().err))
    assert counts[0] < counts[1] <= counts[2] == 12
    # Those with an epoch from earlier calls are counted, and once.
    assert [int(numbers[-1]) for numbers in said] == pytest.approx(counts, abs=1)
    assert all(int(number) <= 12 for numbers in said for number in numbers)
    whole = timed_runs.rank(specs, strategy="full").ranking
    known = {t.model: [r.validation_accuracy for r in t.records] for t in whole.trajectories}
    last = timed_runs.rank(specs, QUICK, folder=tmp_path, time_budget=40.0, strategy="race")
    for trajectory in last.ranking.trajectories:
        seen = [record.validation_accuracy for record in trajectory.records]
        assert seen == known[trajectory.model][: len(seen)]


def test_a_model_that_was_recorded_before_takes_no_time():
    """Of those at a rung, whom the folder knows to the end is not stopped for lack of time."""
    pool = timed_runs.rank(timed_runs.models(3)).ranking.trajectories
    config = dataclasses.replace(timed_runs.PLAN, strategy="race", time_budget=10.0)
    names = [t.model for t in pool]
    seconds = collections.ChainMap({names[0]: 0.0}, dict.fromkeys(names, 5.0))
    left_out = race.out_of_time(pool, names, config, 1, seconds, left=1.0)
    assert len(left_out) == 2
