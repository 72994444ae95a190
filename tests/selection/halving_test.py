"""Successive halving: who is stopped, when, and that it comes out the same every time."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from ncap_jax import errors, options
from ncap_jax import predictor as predictors
from ncap_jax.options import Limits, RankConfig
from ncap_jax.predictor import PREDICTORS, growth
from ncap_jax.predictor.base import Predictor, truncate
from ncap_jax.selection import halving
from ncap_jax.types import ClassCounts, EpochRecord, Prediction, Trajectory

CONFIG = RankConfig(epochs=5, strategy="halving", halving_top=1, halving_threshold=0.05)


def pool(levels: Sequence[float], epochs: int = 5, noise: float = 0.01) -> list[Trajectory]:
    """Models whose accuracy rises towards a level; the loss follows it, and they overfit."""
    rng = np.random.default_rng(0)
    found = []
    for number, level in enumerate(levels):
        records = []
        for epoch in range(epochs + 1):
            accuracy = level * (1 - 0.5 ** (epoch + 1)) + noise * rng.standard_normal()
            loss = -np.log(accuracy) + 0.02 * rng.standard_normal()
            records.append(EpochRecord(epoch, 0.6 * loss, accuracy, loss, accuracy, loss))
        found.append(Trajectory(f"m{number}", "probe", tuple(records)))
    return found


POOL = pool([0.9, 0.88, 0.6, 0.4, 0.3, 0.2])
NAMES = [t.model for t in POOL]


@pytest.mark.parametrize(
    ("epochs", "predictor", "expected"),
    [
        (1, "default", ()),
        (2, "default", (1,)),
        (5, "default", (1, 2, 4)),
        (8, "default", (1, 2, 4)),
        (9, "default", (1, 2, 4, 8)),
        (5, "published_ridge", (2, 4)),
    ],
)
def test_rungs(epochs, predictor, expected):
    config = dataclasses.replace(CONFIG, epochs=epochs, predictor=predictor)
    assert halving.rungs(config) == expected


def test_hopeless_models_are_stopped_and_the_best_is_not():
    stopped = halving.stopped(POOL, NAMES, CONFIG, 4)
    assert {"m4", "m5"} <= set(stopped)
    assert not {"m0", "m1"} & set(stopped)
    assert "after 4 of 5 epochs" in stopped["m5"]
    assert re.search(r"chance of being the best is \d\.\d %", stopped["m5"])


@pytest.mark.parametrize("top", [1, 2, 3])
def test_chances_add_up_and_grow_with_k(top):
    config = dataclasses.replace(CONFIG, halving_top=top)
    found = halving.chances(POOL, NAMES, config, 2)
    assert sum(found.values()) == pytest.approx(top, abs=1e-9)
    more = halving.chances(POOL, NAMES, dataclasses.replace(config, halving_top=top + 1), 2)
    assert all(more[name] >= found[name] for name in NAMES)


def with_predictions(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[Prediction], **changes: object
) -> RankConfig:
    """A configuration whose predictor gives these answers."""
    method = Predictor("stated", lambda pool: list(answers)[: len(pool)], "stated by the test")
    monkeypatch.setitem(PREDICTORS, "stated", method)
    return dataclasses.replace(CONFIG, predictor="stated", **changes)


def test_the_chance_of_two_models_is_the_normal_one(monkeypatch: pytest.MonkeyPatch):
    predictions = [Prediction(0.8, 0.1, own_std=0.03), Prediction(0.77, 0.1, own_std=0.04)]
    config = with_predictions(monkeypatch, predictions)
    found = halving.chances(POOL[:2], NAMES[:2], config, 1)
    assert found["m0"] == pytest.approx(norm.cdf(0.03 / 0.05), abs=0.015)


def test_models_without_a_distribution_are_kept_and_count_among_those_left(
    monkeypatch: pytest.MonkeyPatch,
):
    """m0 has no deviation: it stays, and takes one of the two places that are never emptied."""
    means = [0.5, 0.9, 0.2, 0.1]
    predictions = [Prediction(m, math.nan if i == 0 else 0.01) for i, m in enumerate(means)]
    config = with_predictions(monkeypatch, predictions, halving_top=2, halving_threshold=0.99999)
    found = halving.chances(POOL[:4], NAMES[:4], config, 1)
    assert math.isnan(found["m0"])
    assert [found[name] for name in NAMES[1:4]] == [1.0, 1.0, 0.0]
    assert set(halving.stopped(POOL[:4], NAMES[:4], config, 1)) == {"m3"}
    close = [Prediction(0.5, math.nan), *(Prediction(0.5, 0.1) for _ in range(3))]
    config = with_predictions(monkeypatch, close, halving_top=2, halving_threshold=0.99999)
    assert len(halving.stopped(POOL[:4], NAMES[:4], config, 1)) == 2


def test_later_epochs_are_not_looked_at():
    cut = [truncate(t, 2) for t in POOL]
    assert halving.chances(POOL, NAMES, CONFIG, 2) == halving.chances(cut, NAMES, CONFIG, 2)


def test_never_fewer_than_k_are_left():
    """Among twenty equals every chance is about 1/20, under the threshold or near it."""
    equal = pool([0.8] * 20)
    config = dataclasses.replace(CONFIG, halving_top=3, halving_threshold=0.99)
    stopped = halving.stopped(equal, [t.model for t in equal], config, 1)
    assert len(stopped) == 17


def test_nobody_is_stopped_without_a_distribution():
    """Two records do not make a relation between score and accuracy."""
    assert halving.stopped(POOL[:2], NAMES[:2], CONFIG, 1) == {}


def test_stopped_models_still_inform_but_do_not_compete():
    left = NAMES[:3]
    seen = [t if t.model in left else truncate(t, 1) for t in POOL]
    found = halving.chances(seen, left, CONFIG, 4)
    assert set(found) == set(left)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"strategy": "halve"}, "unknown strategy 'halve'", "Did you mean halving"),
        ({"halving_top": 0}, "halving_top=0", "Give a whole number of at least 1"),
        ({"halving_top": 1.5}, "halving_top=1.5 is not a whole number", "The default is 3"),
        (
            {"halving_threshold": 0.0},
            "halving_threshold=0.0",
            "Give a number between 0 and 1, such as 0.1",
        ),
        (
            {"halving_threshold": 1.0},
            "halving_threshold=1.0",
            "Give a number between 0 and 1, such as 0.1",
        ),
        (
            {"halving_threshold": "low"},
            "halving_threshold='low' is not a number",
            "The default is 0.1",
        ),
        (
            {"halving_threshold": math.nan},
            "halving_threshold=nan",
            "Give a number between 0 and 1, such as 0.1",
        ),
    ],
)
def test_limits_that_cannot_work_are_refused(changes: dict, cause: str, remedy: str):
    with pytest.raises(errors.ConfigError) as error:
        options.check(Limits(**changes))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_chances_follow_the_constants_that_are_given():
    """Where leads shrink to nothing, all models are equal."""
    level = {"probe": growth.PRIORS["probe"]._replace(shrink=1e3, scatter=0.0)}
    equal = halving.chances(POOL, NAMES, CONFIG, 2, level)
    assert np.ptp(list(equal.values())) < 0.02
    assert np.ptp(list(halving.chances(POOL, NAMES, CONFIG, 2).values())) > 0.3
    assert halving.stopped(POOL, NAMES, CONFIG, 2, level) == {}


@pytest.mark.parametrize(("metric", "expected"), [("accuracy", 1709), ("balanced_accuracy", 35)])
def test_chances_know_how_many_images_validate(monkeypatch, metric, expected):
    """As many as the records count, or as they are worth where classes count alike."""
    seen = []

    def accuracies(*arguments, images, **others):
        seen.append(images)
        return predictors.calibration.accuracies(*arguments, **others)

    monkeypatch.setattr(predictors, "accuracies", accuracies)
    config = dataclasses.replace(CONFIG, metric=metric)
    halving.chances(counted((1700, 9)), NAMES, config, 2)
    halving.chances(POOL, NAMES, config, 2)
    assert seen == [expected, None]


def counted(images: tuple[int, int]) -> list[Trajectory]:
    """The pool, on so many validation images of two classes."""
    counts = ClassCounts(images, (images,), (images,))
    return [
        dataclasses.replace(
            t, records=tuple(dataclasses.replace(r, validation_counts=counts) for r in t.records)
        )
        for t in POOL
    ]
