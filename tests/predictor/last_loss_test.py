"""The last losses as scores."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ncap_jax.predictor.last_loss import (
    last_training_loss,
    last_validation_loss,
    log_link,
    predict_training,
    predict_validation,
)
from ncap_jax.types import Trajectory
from tests.support.pool import make_pool, with_last


def test_the_score_is_minus_the_loss_of_the_last_epoch():
    (trajectory,) = make_pool(1, epochs=3)
    trajectory = with_last(trajectory, validation_loss=0.7, train_loss=0.5)
    assert last_validation_loss(trajectory).mean == -0.7
    assert last_training_loss(trajectory).mean == -0.5
    assert math.isnan(last_validation_loss(trajectory).std)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_flagged(value: float):
    (trajectory,) = make_pool(1, epochs=2)
    trajectory = with_last(trajectory, validation_loss=value, train_loss=value)
    for answer, name in (
        (last_validation_loss(trajectory), "validation"),
        (last_training_loss(trajectory), "train"),
    ):
        assert math.isnan(answer.mean)
        assert answer.flag == f"the last {name} loss is not finite"


def test_epoch_0_does_not_count():
    (trajectory,) = make_pool(1, epochs=1)
    start = dataclasses.replace(trajectory, records=trajectory.records[:1])
    for predict in (predict_validation, predict_training):
        for answer in predict([start, Trajectory("empty", "probe", ())]):
            assert math.isnan(answer.mean)
            assert answer.flag == "no epoch recorded"


def test_the_link_is_minus_the_logarithm_of_the_loss_kept_finite():
    assert log_link(-0.5) == pytest.approx(math.log(2))
    assert log_link(-1e-6) == log_link(0.0) == pytest.approx(6 * math.log(10))
    assert log_link(-0.5) < log_link(-0.4)
