"""The best value so far."""

from __future__ import annotations

import dataclasses
import math

from ncap_jax.predictor.best_seen import best_seen, predict
from ncap_jax.types import Trajectory
from tests.support.pool import make_pool, with_accuracies


def test_the_highest_accuracy_after_epoch_0():
    (trajectory,) = make_pool(1, epochs=3)
    answer = best_seen(with_accuracies(trajectory, [0.99, 0.4, 0.7, 0.6]))
    assert (answer.mean, answer.flag) == (0.7, "")
    assert math.isnan(answer.std)


def test_values_that_are_not_finite_are_passed_over_and_flagged():
    (trajectory,) = make_pool(1, epochs=3)
    answer = best_seen(with_accuracies(trajectory, [0.1, 0.4, math.inf, math.nan]))
    assert answer.mean == 0.4
    assert answer.flag == "some validation accuracies are not finite"


def test_without_a_value_there_is_no_prediction():
    (trajectory,) = make_pool(1, epochs=1)
    start = dataclasses.replace(trajectory, records=trajectory.records[:1])
    broken = with_accuracies(trajectory, [0.1, math.nan])
    for answer in predict([Trajectory("empty", "probe", ()), start, broken]):
        assert math.isnan(answer.mean)
        assert answer.flag == "no finite validation accuracy recorded"
