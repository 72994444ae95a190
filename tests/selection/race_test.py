"""The race: who is stopped after which epoch, whatever the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncap_jax.options import RankConfig
from ncap_jax.predictor import PREDICTORS
from ncap_jax.predictor.base import Predictor
from ncap_jax.selection import race
from ncap_jax.types import EpochRecord, Prediction, Trajectory

CONFIG = RankConfig(epochs=5, strategy="race")


def pool(accuracies: Sequence[Sequence[float]]) -> list[Trajectory]:
    """Models a, b, c, ... with these validation accuracies after epochs 1, 2, ..."""
    found = []
    for number, curve in enumerate(accuracies):
        records = [
            EpochRecord(epoch, 1.0, accuracy, 1.0, accuracy, 1.0)
            for epoch, accuracy in enumerate([0.1, *curve])
        ]
        found.append(Trajectory(chr(ord("a") + number), "linear", tuple(records)))
    return found


def names(trajectories: Sequence[Trajectory]) -> list[str]:
    return [t.model for t in trajectories]


SIX = pool([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("epochs", "predictor", "expected"),
    [
        (1, "default", ()),
        (2, "default", (1,)),
        (3, "default", (1, 2)),
        (5, "default", (1, 2, 3)),
        (30, "default", (1, 2, 3)),
        (5, "published_ridge", (2, 3)),
    ],
)
def test_rungs(epochs, predictor, expected):
    config = dataclasses.replace(CONFIG, epochs=epochs, predictor=predictor)
    assert race.rungs(config) == expected


@pytest.mark.parametrize(
    ("models", "expected"),
    [(1, (2, 2, 2)), (3, (2, 2, 2)), (6, (4, 3, 2)), (13, (9, 7, 5)), (100, (67, 50, 34))],
)
def test_how_many_continue(models, expected):
    """Equation (H2), without a rounding error: two thirds of six are four."""
    assert tuple(race.kept(models, rung) for rung in (1, 2, 3)) == expected


def test_the_last_are_stopped_by_the_epochs_seen_so_far():
    stopped = race.stopped(SIX, names(SIX), CONFIG, 1)
    assert list(stopped) == ["e", "f"]
    assert stopped["f"] == (
        "stopped by the race after 1 of 5 epochs: in place 6 of 6, and 4 continue"
    )


def test_stopped_models_count_in_the_shares_but_do_not_compete():
    """After two epochs e and f lead, but they have left; half of six continue, not of four."""
    assert list(race.stopped(SIX, ["a", "b", "c", "d"], CONFIG, 2)) == ["a"]


def test_of_equal_models_the_names_decide():
    equal = pool([[0.5]] * 6)
    assert list(race.stopped(equal[::-1], names(equal), CONFIG, 1)) == ["e", "f"]


def test_models_that_never_had_an_epoch_take_no_place():
    started = [*SIX, dataclasses.replace(SIX[0], model="g", records=SIX[0].records[:1])]
    assert list(race.stopped(started, names(SIX), CONFIG, 1)) == ["e", "f"]


def test_models_without_an_answer_stay_and_take_a_place(monkeypatch: pytest.MonkeyPatch):
    scores = [math.nan, 6.0, 5.0, 4.0, 3.0, 2.0]
    method = Predictor("stated", lambda pool: [Prediction(s) for s in scores], "by the test")
    monkeypatch.setitem(PREDICTORS, "stated", method)
    config = dataclasses.replace(CONFIG, predictor="stated")
    assert list(race.stopped(SIX, names(SIX), config, 1)) == ["e", "f"]


@given(
    accuracies=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=26),
    rung=st.sampled_from([1, 2, 3]),
)
def test_as_many_stay_as_the_schedule_says_and_none_that_leaves_is_better(accuracies, rung):
    runs = pool([[accuracy] * 3 for accuracy in accuracies])
    stopped = race.stopped(runs, names(runs), CONFIG, rung)
    stay = {t.model: t.records[-1].validation_accuracy for t in runs if t.model not in stopped}
    assert len(stay) == min(len(runs), race.kept(len(runs), rung))
    assert all(
        t.records[-1].validation_accuracy <= min(stay.values()) for t in runs if t.model in stopped
    )
