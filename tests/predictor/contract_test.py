"""One contract over the whole registry of predictors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax import errors, predictor
from ncap_jax.options import HEADS
from ncap_jax.predictor import DEFAULT_PREDICTORS, PREDICTORS
from ncap_jax.types import Prediction, Trajectory
from tests.support.pool import make_pool, with_last

each = pytest.mark.parametrize("name", sorted(PREDICTORS))


@each
def test_one_finite_prediction_per_model_in_order(name):
    pool = make_pool()
    answers = PREDICTORS[name](pool)
    assert len(answers) == len(pool)
    assert all(isinstance(a, Prediction) and np.isfinite(a.mean) for a in answers)
    shuffled = PREDICTORS[name](pool[::-1])
    np.testing.assert_allclose([a.mean for a in shuffled[::-1]], [a.mean for a in answers])


@each
def test_higher_is_better(name):
    # The pool's models are made best first; every method must see that in clean runs.
    pool = make_pool(epochs=12)
    means = [a.mean for a in PREDICTORS[name](pool)]
    assert means[0] > means[-1]


@each
def test_truncation_hides_later_epochs(name):
    pool = make_pool(epochs=8)
    start = [dataclasses.replace(t, records=t.records[:5]) for t in pool]
    assert repr(PREDICTORS[name](pool, epochs=4)) == repr(PREDICTORS[name](start))


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_flagged_and_never_raise(name, value):
    pool = make_pool(models=4)
    pool[1] = with_last(
        pool[1],
        validation_loss=value,
        train_loss=value,
        running_loss=value,
        validation_accuracy=value,
        beta_eff=dict.fromkeys(("signed", "absolute", "squared", "total"), (value,)),
    )
    answers = PREDICTORS[name](pool)
    assert answers[1].flag
    assert not np.isinf(answers[1].mean)


@each
def test_empty_and_short_trajectories_are_flagged(name):
    empty = Trajectory("empty", "probe", ())
    only_start = dataclasses.replace(make_pool(1)[0], records=make_pool(1)[0].records[:1])
    for answer in PREDICTORS[name]([empty, only_start]):
        assert np.isnan(answer.mean)
        assert answer.flag
    assert PREDICTORS[name]([]) == []


@each
def test_input_is_left_alone(name):
    pool = make_pool(models=3)
    before = repr(pool)
    PREDICTORS[name](pool)
    assert repr(pool) == before


def test_default_is_a_named_predictor():
    for head in HEADS:
        assert predictor.get("default", head) is PREDICTORS[DEFAULT_PREDICTORS[head]]


def test_unknown_name_gets_near_matches():
    with pytest.raises(errors.ConfigError) as error:
        predictor.get("last_validation_los")
    assert error.value.cause == "unknown predictor 'last_validation_los'"
    assert error.value.remedy.startswith("Did you mean last_validation_loss")


def test_too_few_epochs_name_the_remedy():
    with pytest.raises(errors.ConfigError) as error:
        PREDICTORS["scaled_ridge"].check_epochs(1)
    assert error.value.cause == "predictor 'scaled_ridge' needs at least 2 epochs, got 1"
    assert error.value.remedy == "Use epochs=2 or more, or predictor='last_validation_loss'"


def test_simple_rivals_read_what_they_say():
    (trajectory,) = make_pool(1)
    accuracy = trajectory.series("validation_accuracy")
    assert PREDICTORS["last_seen"]([trajectory])[0].mean == accuracy[-1]
    assert PREDICTORS["best_seen"]([trajectory])[0].mean == max(accuracy[1:])
    losses = trajectory.series("validation_loss"), trajectory.series("train_loss")
    assert PREDICTORS["last_validation_loss"]([trajectory])[0].mean == -losses[0][-1]
    assert PREDICTORS["last_training_loss"]([trajectory])[0].mean == -losses[1][-1]


def test_importing_the_predictors_does_not_import_jax():
    code = (
        "import sys, ncap_jax.predictor; assert 'jax' not in sys.modules; ncap_jax.predictor.logme"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
