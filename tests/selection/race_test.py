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
from ncap_jax.types import ClassCounts, EpochRecord, Prediction, Trajectory

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


def with_images(run: Trajectory, images: int | None) -> Trajectory:
    """The run on a validation part of so many images; None: they are not counted."""
    if images is None:
        return run
    records = [
        dataclasses.replace(
            r,
            validation_counts=ClassCounts(
                (images,), ((round(images * r.validation_accuracy),),), ((images,),)
            ),
        )
        for r in run.records
    ]
    return dataclasses.replace(run, records=tuple(records))


def names(trajectories: Sequence[Trajectory]) -> list[str]:
    return [t.model for t in trajectories]


SIX = pool([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("epochs", "predictor", "expected"),
    [
        (1, "default", ()),
        (2, "default", (1,)),
        (3, "default", (1, 2)),
        (5, "default", (1, 2, 3, 4)),
        (30, "default", (1, 2, 3, 4)),
        (5, "published_ridge", (2, 3, 4)),
    ],
)
def test_rungs(epochs, predictor, expected):
    config = dataclasses.replace(CONFIG, epochs=epochs, predictor=predictor)
    assert race.rungs(config) == expected


@pytest.mark.parametrize(
    ("models", "changes", "together", "expected"),
    [
        (4, {}, False, "race"),
        (3, {}, False, "full"),  # the race would stop nobody
        (4, {"time_budget": 60.0}, False, "race"),
        (3, {"time_budget": 60.0}, False, "full"),
        (4, {"model_time_budget": 60.0}, False, "full"),
        (4, {"epochs_budget": 60}, False, "full"),
        (4, {}, True, "full"),
        (4, {"strategy": "halving"}, True, "halving"),
        (3, {"strategy": "race", "time_budget": 60.0}, False, "race"),
    ],
)
def test_what_auto_comes_to(models, changes, together, expected):
    config = RankConfig(**changes)
    found = race.settled(config, models, together=together)
    assert found == dataclasses.replace(config, strategy=expected)


@pytest.mark.parametrize(
    ("models", "expected"),
    [(1, (3, 3, 3, 3)), (6, (3, 3, 3, 3)), (13, (7, 5, 4, 3)), (100, (50, 34, 25, 20))],
)
def test_how_many_continue(models, expected):
    """Equation (H2), without a rounding error: a fifth of a hundred is twenty."""
    assert tuple(race.kept(models, rung) for rung in (1, 2, 3, 4)) == expected


def test_the_last_are_stopped_by_the_epochs_seen_so_far():
    stopped = race.stopped(SIX, names(SIX), CONFIG, 1)
    assert list(stopped) == ["d", "e", "f"]
    assert stopped["f"] == (
        "stopped by the race after 1 of 5 epochs: in place 6 of 6, and 3 continue"
    )


@pytest.mark.parametrize(
    ("images", "leave"),
    [
        # 0.7 and 0.6: a standard error of 0.08, 0.11 and 0.24.
        (70, ["d", "e", "f"]),
        (40, ["e", "f"]),
        (6, ["f"]),
        (3, []),
    ],
)
def test_nobody_is_stopped_whom_the_images_cannot_tell_from_the_last_that_continues(images, leave):
    counted = [with_images(t, images) for t in SIX]
    stopped = race.stopped(counted, names(SIX), CONFIG, 1)
    assert list(stopped) == leave
    assert all(f"and {6 - len(leave)} continue" in why for why in stopped.values())
    assert list(race.stopped(counted, names(SIX), CONFIG, 1, margin=0.0)) == ["d", "e", "f"]


def test_images_count_as_the_metric_sees_them():
    """Of a rare class there are few: they are worth less, and fewer models are told apart."""
    counts = ClassCounts((98, 2), ((50, 1),), ((50, 50),))
    runs = [
        dataclasses.replace(
            t, records=tuple(dataclasses.replace(r, validation_counts=counts) for r in t.records)
        )
        for t in SIX
    ]
    assert list(race.stopped(runs, names(SIX), CONFIG, 1)) == ["d", "e", "f"]
    balanced = dataclasses.replace(CONFIG, metric="balanced_accuracy")
    assert list(race.stopped(runs, names(SIX), balanced, 1)) == ["f"]


def test_stopped_models_count_in_the_shares_but_do_not_compete():
    """After two epochs e and f lead, but they have left; of the others the last is stopped."""
    assert list(race.stopped(SIX, ["a", "b", "c", "d"], CONFIG, 2)) == ["a"]


def test_of_equal_models_the_names_decide():
    equal = pool([[0.5]] * 6)
    assert list(race.stopped(equal[::-1], names(equal), CONFIG, 1)) == ["d", "e", "f"]


def test_models_that_never_had_an_epoch_take_no_place():
    started = [*SIX, dataclasses.replace(SIX[0], model="g", records=SIX[0].records[:1])]
    assert list(race.stopped(started, names(SIX), CONFIG, 1)) == ["d", "e", "f"]


def test_models_without_an_answer_stay_and_take_a_place(monkeypatch: pytest.MonkeyPatch):
    scores = [math.nan, 6.0, 5.0, 4.0, 3.0, 2.0]
    method = Predictor("stated", lambda pool: [Prediction(s) for s in scores], "by the test")
    monkeypatch.setitem(PREDICTORS, "stated", method)
    config = dataclasses.replace(CONFIG, predictor="stated")
    assert list(race.stopped(SIX, names(SIX), config, 1)) == ["d", "e", "f"]


@given(
    accuracies=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=26),
    rung=st.sampled_from([1, 2, 3, 4]),
    images=st.sampled_from([None, 10, 100]),
)
def test_as_many_stay_as_the_schedule_says_and_none_that_leaves_is_better(accuracies, rung, images):
    runs = [with_images(t, images) for t in pool([[accuracy] * 4 for accuracy in accuracies])]
    stopped = race.stopped(runs, names(runs), CONFIG, rung)
    stay = {t.model: t.records[-1].validation_accuracy for t in runs if t.model not in stopped}
    least = min(len(runs), race.kept(len(runs), rung))
    assert len(stay) >= least if images else len(stay) == least
    assert all(
        t.records[-1].validation_accuracy <= min(stay.values()) for t in runs if t.model in stopped
    )
