"""Models that ended at different epochs on one scale."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import logit

from ncap_jax import predictor as predictors
from ncap_jax.predictor import common_scale
from ncap_jax.predictor.base import truncate
from ncap_jax.types import EpochRecord, Trajectory

METHOD = predictors.get("default", "linear")


def run(name: str, *accuracies: float) -> Trajectory:
    records = [
        EpochRecord(epoch, 1 - accuracy, accuracy, 1 - accuracy, accuracy, 1 - accuracy)
        for epoch, accuracy in enumerate((0.1, *accuracies))
    ]
    return Trajectory(name, "linear", tuple(records))


POOL = [
    run("a", 0.40, 0.55, 0.65, 0.70),
    run("b", 0.42, 0.52, 0.60, 0.66),
    run("c", 0.30, 0.48, 0.58, 0.63),
    run("d", 0.20, 0.30, 0.45, 0.55),
]


def test_models_of_equal_length_are_as_the_predictor_says():
    assert common_scale.accuracies(METHOD, POOL) == predictors.accuracies(METHOD, POOL)


def test_who_stopped_early_is_judged_as_then_and_moves_with_the_others():
    """Equation (A1) by hand, for d after one epoch and c after two."""
    stopped = [*POOL[:2], truncate(POOL[2], 2), truncate(POOL[3], 1)]
    found = common_scale.accuracies(METHOD, stopped)
    end = predictors.accuracies(METHOD, stopped)
    assert found[:2] == end[:2]
    for place, epochs, there in ((2, 2, 3), (3, 1, 4)):
        then = predictors.accuracies(METHOD, [truncate(t, epochs) for t in POOL[:there]])
        moved = np.mean([end[i].mean - then[i].mean for i in (0, 1)])
        assert found[place].mean == pytest.approx(then[place].mean + moved)
        assert found[place].spread == then[place].spread


def test_those_that_went_on_are_predicted_from_their_own_pool():
    """How far behind d was when it was stopped does not make the others less sure."""
    stopped = [*POOL[:3], truncate(POOL[3], 1)]
    found = common_scale.accuracies(METHOD, stopped)
    narrowed = common_scale.narrowing(stopped, POOL[:3])
    assert found[:3] == predictors.accuracies(METHOD, POOL[:3], narrowed=narrowed)
    assert found[0].spread < predictors.accuracies(METHOD, stopped)[0].spread
    # Two are no pool: with them the others count.
    two = [*POOL[:2], *(truncate(run, 1) for run in POOL[2:])]
    assert common_scale.accuracies(METHOD, two)[:2] == predictors.accuracies(METHOD, two)[:2]


def test_how_much_a_choice_narrowed_a_pool_is_seen_after_the_epoch_that_all_have():
    """Equation (A2) by hand: d is stopped after one epoch, which the others do not look back at."""
    stopped = [*POOL[:3], truncate(POOL[3], 1)]
    first = logit(np.array([0.40, 0.42, 0.30, 0.20]))
    expected = np.var(first) / np.var(first[:3])
    assert 1 < expected < common_scale.NARROWEST
    assert common_scale.narrowing(stopped, POOL[:3]) == pytest.approx(expected)
    plain, found = (predictors.accuracies(METHOD, POOL[:3], narrowed=n)[0] for n in (1.0, expected))
    assert found.mean > 0.5
    assert found.own_std > plain.own_std
    assert common_scale.accuracies(METHOD, stopped)[0] == found


def test_a_choice_narrows_nothing_where_nobody_was_left_out_or_those_left_out_were_alike():
    assert common_scale.narrowing(POOL, POOL) == 1.0
    assert common_scale.narrowing(POOL, [POOL[0], POOL[3]]) == 1.0
    assert common_scale.narrowing(POOL, POOL[:1]) == 1.0
    twins = [run("a", 0.5), run("b", 0.5), run("c", 0.2)]
    assert common_scale.narrowing(twins, twins[:2]) == 1.0
    alike = [run("a", 0.5), run("b", 0.501), run("c", 0.2)]
    assert common_scale.narrowing(alike, alike[:2]) == common_scale.NARROWEST


def test_a_level_that_rises_later_lifts_who_stopped():
    """Compared with its own last accuracy, d stopped after one epoch would look lost."""
    stopped = [*POOL[:3], truncate(POOL[3], 1)]
    plain = predictors.accuracies(METHOD, stopped)[3]
    found = common_scale.accuracies(METHOD, stopped)[3]
    assert found.mean > plain.mean


def test_without_a_finite_answer_nobody_moves():
    broken = dataclasses.replace(
        POOL[0],
        records=tuple(
            dataclasses.replace(r, validation_accuracy=math.nan) for r in POOL[0].records
        ),
    )
    found = common_scale.accuracies(METHOD, [broken, truncate(POOL[1], 1)])
    then = predictors.accuracies(METHOD, [truncate(broken, 1), truncate(POOL[1], 1)])
    assert math.isnan(found[0].mean)
    assert repr(found[1]) == repr(then[1])
