"""What all methods share: truncation, the answer to short runs, implausible accuracies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor.base import (
    Predictor,
    accuracy_flag,
    no_prediction,
    per_model,
    trained_series,
    truncate,
)
from ncap_jax.types import Prediction, Trajectory
from tests.support.pool import make_pool

NEEDY = Predictor(
    "needy",
    per_model(lambda t: Prediction(t.records[-1].validation_accuracy)),
    "needs three epochs",
    min_epochs=3,
)


def test_truncation_keeps_epoch_0_and_the_first_epochs():
    (trajectory,) = make_pool(1, epochs=4)
    assert [r.epoch for r in truncate(trajectory, 2).records] == [0, 1, 2]
    assert truncate(trajectory, 2).model == trajectory.model
    for epochs in (None, 4, 9):
        assert truncate(trajectory, epochs) is trajectory


def test_a_predictor_answers_for_the_epochs_asked_for():
    pool = make_pool(2, epochs=5)
    answers = NEEDY(pool, epochs=4)
    assert [a.mean for a in answers] == [t.records[4].validation_accuracy for t in pool]


def test_runs_that_are_too_short_are_flagged_and_the_others_are_not():
    long, short = make_pool(2, epochs=3)
    short = dataclasses.replace(short, records=short.records[:3])
    known, unknown = NEEDY([long, short])
    assert known.mean == long.records[3].validation_accuracy
    assert math.isnan(unknown.mean)
    assert unknown.flag == "2 epoch(s) recorded, 3 needed"


def test_too_few_epochs_are_refused():
    NEEDY.check_epochs(3)
    with pytest.raises(errors.ConfigError) as error:
        NEEDY.check_epochs(2)
    assert error.value.cause == "predictor 'needy' needs at least 3 epochs, got 2"
    assert error.value.remedy == "Use epochs=3 or more, or predictor='last_validation_loss'"


def test_a_method_per_model_answers_in_order():
    method = per_model(lambda t: Prediction(float(t.epochs)))
    runs = [Trajectory("a", "probe", ()), *make_pool(1, epochs=2)]
    assert [p.mean for p in method(runs)] == [0.0, 2.0]


def test_a_series_leaves_out_epoch_0():
    (trajectory,) = make_pool(1, epochs=3)
    found = trained_series(trajectory, "running_loss")
    assert found.tolist() == [r.running_loss for r in trajectory.records[1:]]
    assert trained_series(Trajectory("empty", "probe", ()), "train_loss").size == 0


def test_no_prediction_is_a_flagged_nan():
    answer = no_prediction("no epoch recorded")
    assert math.isnan(answer.mean)
    assert math.isnan(answer.spread)
    assert answer.flag == "no epoch recorded"


@pytest.mark.parametrize(
    ("mean", "seen", "flag"),
    [
        (math.nan, [0.5, 0.6], "the prediction is not finite"),
        (math.inf, [0.5, 0.6], "the prediction is not finite"),
        (1.01, [0.5, 0.9], "the predicted accuracy lies outside [0, 1]"),
        (-0.01, [0.0, 0.1], "the predicted accuracy lies outside [0, 1]"),
        # Beyond what was seen by more than it spans, 0.2 here, at least 0.05.
        (0.81, [0.4, 0.6], "the predicted accuracy is far outside the accuracies seen"),
        (0.19, [0.4, 0.6], "the predicted accuracy is far outside the accuracies seen"),
        (0.79, [0.4, 0.6], ""),
        (0.64, [0.6, 0.6], ""),
        (0.66, [0.6, 0.6], "the predicted accuracy is far outside the accuracies seen"),
    ],
)
def test_implausible_accuracies_are_flagged(mean: float, seen: list[float], flag: str):
    assert accuracy_flag(mean, np.array(seen)) == flag
