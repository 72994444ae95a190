"""Budgets: how time and epochs are divided, and what is said of models that they stop."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ncap_jax import errors, options
from ncap_jax.options import Limits, RankConfig
from ncap_jax.selection import budget
from ncap_jax.types import EpochRecord, ModelSpec, Trajectory
from tests.support.timed_runs import Clock


@pytest.fixture
def clock(monkeypatch):
    """The clock of everything that a test makes."""
    clock = Clock(100.0)
    monkeypatch.setattr(budget.time, "monotonic", clock)
    return clock


def make(clock: Clock, **limits: float) -> budget.TimeBudget:
    return budget.TimeBudget(RankConfig(**limits), clock.now)


def trained(times: budget.TimeBudget, clock: Clock, model: str, first: float, more: float = 0):
    """A model has its turn: its first epoch, then others."""
    share = times.begin(model, 5)
    clock.now += first
    times.epoch(model, 1)
    clock.now += more
    times.end(model)
    return share


def trajectory(epochs: int, model: str = "m") -> Trajectory:
    records = tuple(EpochRecord(e, 1.0, 0.5, 1.0, 0.5) for e in range(epochs + 1))
    return Trajectory(model, "probe", records)


@pytest.mark.parametrize(("seconds", "left"), [(60.0, 57.0), (1000.0, 995.0), (10.0, 9.5)])
def test_a_reserve_is_kept_for_ranking_and_reporting(clock, seconds, left):
    assert make(clock, time_budget=seconds).rest() == pytest.approx(left)


def test_an_even_share_is_of_the_time_left(clock):
    times = make(clock, time_budget=100.0)
    assert times.begin("a", 5).even == pytest.approx(19.0)
    assert times.begin("b", 5, workers=2).even == pytest.approx(38.0)
    clock.now += 35
    assert times.begin("c", 1, workers=2).even == pytest.approx(60.0)
    clock.now += 100
    assert times.begin("d", 2).even == 0.0


def test_the_first_epoch_may_take_the_time_left_and_the_others_an_even_share():
    share = budget.TimeShare(even=15.0, rest=60.0)
    assert share.end(None) == (60.0, "time_budget")
    assert share.end(15.0) == (15.0, "time_budget")
    assert share.end(16.0) == (32.0, "time_budget")  # not all models fit: as long again
    assert share.end(40.0) == (60.0, "time_budget")
    # Quick to start among models that are not: they do not all fit, so it may finish.
    share = budget.TimeShare(even=3.0, rest=60.0, typical=10.0)
    assert share.end(2.0) == (12.0, "time_budget")


def test_the_first_model_is_promised_an_epoch_until_one_has_it(clock):
    times = make(clock, time_budget=10.0)
    assert times.begin("a", 5).end(None)[0] == math.inf
    assert not times.begin("b", 5).promised  # another worker's
    clock.now += 20.0
    times.end("a", failed=True)
    assert times.begin("c", 3).promised
    clock.now += 20.0
    times.epoch("c", 1)
    times.end("c")
    last = times.begin("d", 2)
    assert (last.promised, last.refusal) == (False, "no time was left")


def test_an_epoch_of_a_model_that_failed_after_it_does_not_count(clock):
    times = make(clock, time_budget=10.0)
    times.begin("a", 2)
    times.epoch("a", 1)
    assert times.answered
    times.end("a", failed=True)
    assert not times.answered


def test_a_predictor_that_needs_two_epochs_has_them(clock):
    times = make(clock, time_budget=10.0, predictor="power_law")
    share = times.begin("a", 2)
    times.epoch("a", 1)
    assert (share.needed, times.answered) == (2, False)
    times.epoch("a", 2)
    assert times.answered


def test_who_cannot_have_an_epoch_in_the_time_left_is_refused(clock):
    times = make(clock, time_budget=60.0)
    trained(times, clock, "a", 20.0, 5.0)
    assert trained(times, clock, "b", 12.0).refusal == ""  # 32 seconds, about 10 expected
    assert times.begin("c", 3).refusal == ""  # 20 seconds, 12 expected
    clock.now += 9.0
    assert times.begin("d", 2).refusal == (
        "11.0 seconds were left, and a first epoch was expected to take 12.0 or more"
    )
    assert times.begin("b", 2).refusal == ""  # its next turn: it has an epoch


def test_the_first_models_seconds_are_not_what_the_next_one_takes(clock):
    times = make(clock, time_budget=60.0)
    trained(times, clock, "a", 40.0)
    assert times.begin("b", 4).refusal == (
        "17.0 seconds were left, and a first epoch was expected to take 20.0 or more"
    )


def test_how_many_models_fit(clock):
    times = make(clock, time_budget=100.0)
    assert times.fitting(38) == 38  # nothing is known
    trained(times, clock, "a", 20.0, 2.0)  # the next: 10 + 2
    assert times.fitting(37) == 1 + 5  # in 73 seconds
    assert times.fitting(3) == 3
    trained(times, clock, "b", 13.0, 2.0)
    assert times.fitting(36) == 1 + 3  # 15 each, in 58 seconds
    times.begin("c", 36, workers=2)
    assert times.fitting(36) == 2 * (1 + 3)
    clock.now += 44.5
    assert times.fitting(35) == 2 * 1  # 13.5 seconds are enough for one on each worker
    clock.now += 1.0
    assert times.fitting(35) == 0


def test_an_epoch_at_two_rates_counts_as_two(clock):
    times = budget.TimeBudget(
        RankConfig(time_budget=100.0, strategy="race"),
        clock.now,
        later_epochs=lambda models: 3 * models,
        trials={"b": 2},
    )
    times.expect(dict.fromkeys("abcdefghijk", 1000))
    for model in ("a", "b"):
        times.begin(model, 10)
        clock.now += 5.0
        times.epoch(model, 0)
        clock.now += 8.0  # the first epoch, of b at two rates
        times.epoch(model, 1)
        times.end(model)
        assert times.epoch_seconds(model) == (8.0 if model == "a" else 4.0)
    assert times.epoch_seconds() == times.epoch_seconds("unknown") == 6.0
    # Nine more of (6.5 + 13) / 2 seconds and 3 * 6 more for each of all: 69 are enough for one.
    assert times.fitting(9) == 1
    assert times.racing() == 2 + 1
    times.begin("a", 9)
    clock.now += 3.0
    times.epoch("a", 2)
    assert times.epoch_seconds("a") == 3.0


def test_a_race_is_foretold_with_those_that_have_an_epoch_from_earlier_calls(clock):
    """Of 57 seconds 12 are over; two more models, of the same size, take half of that each."""
    asked = []

    def later(models: int) -> int:
        asked.append(models)
        return models

    config = RankConfig(time_budget=60.0, strategy="race")
    times = budget.TimeBudget(config, clock.now, later_epochs=later)
    times.expect({"a": 1000, "b": 1000, "c": None}, recorded=5)
    times.begin("a", 3)
    times.epoch("a", 0)
    clock.now += 12.0
    times.epoch("a", 1)
    times.end("a")
    assert times.answered == 1
    # 6 + 12 (5 + 2) seconds are not there.
    assert times.racing() == 5 + 1
    assert asked == [7]
    times.epoch("a", 2)  # an epoch that takes no time
    assert times.racing() == 5 + 3
    assert asked == [7, 7, 8]
    times.begin("recorded", 3)
    times.epoch("recorded", 2)
    assert times.answered == 2
    assert times.racing() == 5 + 3


def test_a_race_is_given_what_its_later_epochs_leave(clock):
    times = make(clock, time_budget=100.0, strategy="race")
    times.begin("a", 5)
    times.epoch("a", 0)
    clock.now += 10.0
    times.epoch("a", 1)
    times.end("a")
    share = times.begin("b", 4, later_epochs=6)
    assert (share.rest, share.even) == (25.0, 25.0)  # of 85 seconds
    assert times.begin("c", 3, workers=2, later_epochs=6).rest == 55.0
    refused = times.begin("d", 3, later_epochs=9)
    assert refused.refusal == "no time was left"


def test_where_nothing_is_compiled_beside_there_is_less_to_share(clock):
    times = budget.TimeBudget(RankConfig(time_budget=100.0), clock.now, beside=False)
    trained(times, clock, "a", 20.0, 2.0)  # the next: 14 + 2
    assert times.fitting(37) == 1 + 4  # in 73 seconds


def test_a_models_own_budget_holds_for_all_its_turns_once_it_has_an_epoch(clock):
    times = make(clock, model_time_budget=10.0)
    share = trained(times, clock, "a", 12.0)
    assert share.end(None)[0] == math.inf
    assert share.end(12.0) == (10.0, "model_time_budget")
    again = times.begin("a", 2)
    assert (again.answered, again.end(0.0)) == (True, (-2.0, "model_time_budget"))
    assert times.begin("b", 20).own == 10.0


def test_a_turn_that_begins_again_counts_twice(clock):
    times = make(clock, model_time_budget=10.0)
    times.begin("a", 2)
    clock.now += 3.0  # its worker dies
    assert times.begin("a", 2).own == 7.0


def test_no_budget_no_check(clock):
    share = make(clock).begin("a", 3)
    assert share == budget.TimeShare(promised=True)
    assert share.deadline() is None


def test_a_turn_that_is_over_raises(clock):
    check = budget.TimeShare(even=5.0, rest=8.0).deadline()
    assert check is not None
    clock.now += 6.0
    check()
    check.epoch(0)
    clock.now += 1.9
    check()
    clock.now += 0.2
    with pytest.raises(budget.TimeIsUp):
        check()


def test_after_the_first_epoch_the_share_holds(clock):
    check = budget.TimeShare(even=5.0, own=4.0, rest=60.0).deadline()
    assert check is not None
    clock.now += 3.0
    check.epoch(1)
    check()
    clock.now += 1.5
    with pytest.raises(budget.TimeIsUp) as caught:
        check()
    assert caught.value.limit == "model_time_budget"


def test_the_reason_says_how_far_it_got():
    error = budget.TimeIsUp("time_budget")
    nothing = Trajectory("m", "probe", ())
    assert error.reason(nothing, 5) == "stopped by time_budget before anything was measured"
    assert error.reason(trajectory(0), 5) == (
        "stopped by time_budget before its first epoch was finished"
    )
    assert error.reason(trajectory(2), 5) == "stopped by time_budget after 2 of 5 epochs"
    assert budget.TimeIsUp("time_budget", "no time was left").reason(trajectory(2), 5) == (
        "stopped by time_budget after 2 of 5 epochs: no time was left"
    )


def test_a_budget_below_one_start_is_doubted(clock):
    assert make(clock).doubt() == make(clock, time_budget=60.0).doubt() == ""
    needs = "a model needs 3 seconds or more for compilation and an epoch"
    assert make(clock, time_budget=2.0).doubt() == (
        f"time_budget=2 leaves 1.9 seconds for training, but {needs}. One model is trained for an "
        "epoch all the same. Give more seconds, or fewer images"
    )
    assert make(clock, model_time_budget=2.5).doubt() == (
        f"model_time_budget=2.5, but {needs}. Each model is trained for an epoch all the same. "
        "Give more seconds"
    )
    times = make(clock, time_budget=60.0)
    clock.now += 56.0  # the data took it
    assert times.doubt().startswith("time_budget=60 leaves 1.0 seconds for training, but ")


def test_who_starts_first_under_a_budget_of_time():
    def spec(name: str, parameters: int | None, weights: str | None, **more: Any) -> ModelSpec:
        return ModelSpec(name, Any, 8, weights=weights, parameters=parameters, **more)

    specs = [
        spec("drawn", 10, "random"),
        spec("uncounted", None, "file"),
        spec("large", 300, "file"),
        spec("small", 20, "file"),
        spec("own", 100, None, build_pretrained=Any),
        spec("same", 20, "file"),
    ]
    assert budget.admission_order(specs, RankConfig(time_budget=60.0)) == [
        *["small", "same", "own", "large", "uncounted", "drawn"]
    ]
    assert budget.admission_order(specs, RankConfig()) == [spec.name for spec in specs]


@pytest.mark.parametrize(
    ("epochs_budget", "ended", "left", "epoch", "expected"),
    [
        (None, [], 4, 0, 5),
        (10, [], 4, 0, 2),  # two are left over: they would favour two models
        (20, [], 4, 0, 5),
        (100, [], 4, 0, 5),
        (10, [1], 3, 2, 3),  # the fourth failed after one epoch: the rest goes on
        (10, [2, 2], 2, 2, 3),
        (8, [2, 2], 2, 2, 2),
        (4, [5], 2, 0, 0),  # spent in an earlier call
    ],
)
def test_epochs_are_the_same_for_all(epochs_budget, ended, left, epoch, expected):
    config = RankConfig(epochs=5, epochs_budget=epochs_budget)
    assert budget.target(config, [trajectory(n) for n in ended], left, epoch) == expected


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"time_budget": 0.0}, "time_budget=0.0", "Give a positive number of seconds"),
        ({"time_budget": -3.0}, "time_budget=-3.0", "Give a positive number of seconds"),
        ({"time_budget": math.nan}, "time_budget=nan", "Give a positive number of seconds"),
        (
            {"time_budget": "600"},
            "time_budget='600' is not a number or None",
            "The default is None",
        ),
        ({"time_budget": True}, "time_budget=True is not a number or None", "The default is None"),
        (
            {"model_time_budget": math.inf},
            "model_time_budget=inf",
            "Give a positive number of seconds",
        ),
        ({"epochs_budget": 0}, "epochs_budget=0", "Give a whole number of at least 1"),
        (
            {"epochs_budget": 2.5},
            "epochs_budget=2.5 is not a whole number or None",
            "The default is None",
        ),
    ],
)
def test_limits_that_make_no_budget_are_refused(changes: dict, cause: str, remedy: str):
    with pytest.raises(errors.ConfigError) as error:
        options.check(Limits(**changes))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)
