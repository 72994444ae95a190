"""Budgets: how time and epochs are divided, and what is said of models that they stop."""

from __future__ import annotations

import math

import pytest

from ncap_jax import errors, options
from ncap_jax.options import Limits, RankConfig
from ncap_jax.selection import budget
from ncap_jax.types import EpochRecord, Trajectory


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def trajectory(epochs: int, model: str = "m") -> Trajectory:
    records = tuple(EpochRecord(e, 1.0, 0.5, 1.0, 0.5) for e in range(epochs + 1))
    return Trajectory(model, "probe", records)


def test_time_is_divided_over_the_models_left():
    clock = Clock()
    times = budget.TimeBudget(Limits(time_budget=60.0), clock.now, clock)
    assert times.share("a", 4) == budget.TimeShare(15.0, "time_budget")
    clock.now += 6  # a was quick: what it left goes to the others
    assert times.share("b", 3).seconds == pytest.approx(18.0)
    clock.now += 100
    assert times.share("c", 2).seconds == 0.0


def test_workers_share_the_clock():
    clock = Clock()
    times = budget.TimeBudget(Limits(time_budget=60.0), clock.now, clock)
    assert times.share("a", 4, workers=2).seconds == 30.0
    assert times.share("a", 1, workers=2).seconds == 60.0


def test_a_models_own_budget_holds_for_all_its_turns():
    clock = Clock()
    limits = Limits(time_budget=60.0, model_time_budget=10.0)
    times = budget.TimeBudget(limits, clock.now, clock)
    assert times.share("a", 2) == budget.TimeShare(10.0, "model_time_budget")
    times.used("a", 7.0)
    assert times.share("a", 2).seconds == pytest.approx(3.0)
    times.used("a", 7.0)
    assert times.share("a", 2).seconds == 0.0
    assert times.share("b", 20) == budget.TimeShare(3.0, "time_budget")


def test_no_budget_no_check():
    share = budget.TimeBudget(Limits(), 0.0, Clock()).share("a", 3)
    assert math.isinf(share.seconds)
    assert share.deadline() is None


def test_a_share_that_is_over_raises():
    clock = Clock()
    check = budget.TimeShare(5.0, "time_budget").deadline(clock)
    clock.now += 4.9
    check()
    clock.now += 0.2
    with pytest.raises(budget.TimeIsUp):
        check()


def test_the_reason_says_how_far_it_got():
    share = budget.TimeShare(5.0, "time_budget")
    nothing = Trajectory("m", "probe", ())
    assert share.reason(nothing, 5) == "stopped by time_budget before anything was measured"
    assert share.reason(trajectory(0), 5) == (
        "stopped by time_budget before its first epoch was finished"
    )
    assert share.reason(trajectory(2), 5) == "stopped by time_budget after 2 of 5 epochs"


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
