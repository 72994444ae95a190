"""Sum of training losses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ncap_jax.predictor import PREDICTORS
from ncap_jax.predictor.sotl import sum_of_training_losses
from tests.support.pool import make_pool


@pytest.mark.parametrize("last", [None, 1, 3])
def test_ranks_as_the_sum_of_minibatch_losses(last):
    pool = make_pool(epochs=6)
    sums = [np.sum(t.series("running_loss")[1:][-(last or 6) :]) for t in pool]
    scores = [p.mean for p in sum_of_training_losses(last)(pool)]
    np.testing.assert_allclose(scores, -np.array(sums) / (last or 6))


def test_registry_names():
    (trajectory,) = make_pool(1)
    loss = trajectory.series("running_loss")[1:]
    assert PREDICTORS["sotl"]([trajectory])[0].mean == -np.mean(loss)
    assert PREDICTORS["sotl_e"]([trajectory])[0].mean == -loss[-1]


def test_missing_running_loss_is_flagged():
    (trajectory,) = make_pool(1)
    records = [dataclasses.replace(r, running_loss=None) for r in trajectory.records]
    answer = PREDICTORS["sotl"]([dataclasses.replace(trajectory, records=tuple(records))])[0]
    assert np.isnan(answer.mean)
    assert "missing" in answer.flag
