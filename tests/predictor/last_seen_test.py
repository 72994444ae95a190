"""The last value, and the scale on which accuracies grow."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ncap_jax.predictor.growth import EDGE
from ncap_jax.predictor.last_seen import last_seen, logit_link, predict
from ncap_jax.types import Trajectory
from tests.support.pool import make_pool, with_accuracies


def test_the_accuracy_of_the_last_epoch():
    (trajectory,) = make_pool(1, epochs=3)
    answer = last_seen(with_accuracies(trajectory, [0.1, 0.7, 0.9, 0.8]))
    assert (answer.mean, answer.flag) == (0.8, "")
    assert math.isnan(answer.std)


def test_without_a_last_value_there_is_no_prediction():
    (trajectory,) = make_pool(1, epochs=1)
    start = dataclasses.replace(trajectory, records=trajectory.records[:1])
    answers = predict(
        [Trajectory("empty", "probe", ()), start, with_accuracies(trajectory, [0.1, math.inf])]
    )
    assert all(math.isnan(a.mean) for a in answers)
    missing, last = "no epoch recorded", "the last validation accuracy is not finite"
    assert [a.flag for a in answers] == [missing, missing, last]


def test_the_link_is_the_logit_kept_finite():
    assert logit_link(0.8) == pytest.approx(math.log(0.8 / 0.2))
    assert logit_link(1.0) == pytest.approx(math.log((1 - EDGE) / EDGE))
    assert logit_link(0.0) == pytest.approx(-logit_link(1.0))
