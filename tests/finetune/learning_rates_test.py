"""Learning rates on trial: the first epoch at each, then on at the best."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ncap_jax.finetune import learning_rates, loop
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import RankConfig
from ncap_jax.types import EpochRecord
from ncap_jax.zoo import MODELS
from tests.support.small import small_tuning, timeless

GOOD, BAD = 3e-3, 30.0


def tuned(**changes):
    return small_tuning(**{"epochs": 3, "head": "linear", **changes})


def without_rate(records):
    return [dataclasses.replace(record, learning_rate=None) for record in timeless(records)]


def test_which_rates_are_tried():
    tiny, folded, other = (MODELS[n] for n in ("tiny_resnet", "squeezenet", "resnet50"))
    rates = learning_rates.rates_to_try
    assert rates(folded, RankConfig()) == (3e-4,)  # known from other data
    assert rates(folded, RankConfig(learning_rate=1e-4)) == (1e-4,)
    assert rates(folded, RankConfig(trial_rates=(3e-4,))) == (1e-3, 3e-4)
    assert rates(folded, RankConfig(weights="random")) == (1e-3, 3e-4)  # of pretrained weights
    assert rates(dataclasses.replace(folded, weights="random"), RankConfig()) == (1e-3, 3e-4)
    assert rates(tiny, RankConfig()) == (1e-3,)
    assert rates(other, RankConfig()) == (1e-3, 3e-4)
    assert rates(other, RankConfig(learning_rate=1e-4)) == (1e-4,)  # chosen by somebody
    assert rates(other, RankConfig(optimizer="sgd")) == (1e-3,)
    assert rates(other, RankConfig(learning_rate=3e-4, trial_rates=(3e-4,))) == (3e-4,)
    assert rates(tiny, RankConfig(trial_rates=(1e-2,))) == (1e-3, 1e-2)
    assert rates(other, RankConfig(trial_rates=())) == (1e-3,)


@pytest.fixture(scope="module")
def alone():
    """The run at the good rate, no other tried."""
    return loop.finetune(tuned(learning_rate=GOOD))


@pytest.mark.parametrize("order", [(GOOD, BAD), (BAD, GOOD)])
def test_the_run_is_that_of_the_better_rate(alone, order):
    first, *others = order
    tried = loop.finetune(tuned(learning_rate=first, trial_rates=tuple(others)))
    assert [r.learning_rate for r in tried.records] == [None, GOOD, GOOD, GOOD]
    assert [r.learning_rate for r in alone.records] == [None] * 4
    assert without_rate(tried.records) == without_rate(alone.records)


def test_it_resumes_at_its_rate_after_an_interruption(alone, tmp_path):
    checkpoints = Checkpoints(tmp_path / "model")
    rates = {"learning_rate": BAD, "trial_rates": (GOOD,)}
    first = loop.finetune(tuned(**rates), checkpoints=checkpoints, until=1)
    assert first.status == "stopped"
    rest = loop.finetune(tuned(**rates), checkpoints=checkpoints, seen=first.records)
    assert without_rate(rest.records) == without_rate(alone.records)
    assert rest.records[-1].learning_rate == GOOD


def test_of_losses_the_lowest_and_no_nan():
    """Every attempt starts from the same state."""
    train_state = tuned().candidate.train_state
    start = np.array(train_state.params["backbone"]["conv"]["kernel"])
    losses = {0.1: math.nan, 0.2: 2.0, 0.3: 1.0, 0.4: 1.0}
    seen = []

    def attempt(states):
        (state,) = states
        rate = learning_rates.chosen_rate(state, tuple(losses), RankConfig())
        seen.append(rate)
        kernel = state.params["backbone"]["conv"]["kernel"]
        np.testing.assert_array_equal(kernel, start)
        kernel.delete()  # as a donating step does
        return states, EpochRecord(1, 0.0, 0.0, losses[rate], 0.0)

    (state,), record = learning_rates.best_attempt((train_state,), tuple(losses), attempt)
    assert seen == list(losses)
    found = learning_rates.chosen_rate(state, tuple(losses), RankConfig()), record.validation_loss
    assert found == (0.3, 1.0)


def test_a_rate_keeps_the_type_and_the_rest_of_the_state():
    train_state = tuned().candidate.train_state
    other = learning_rates.with_rate(train_state, 0.25)
    rate = learning_rates.current_rate(other)
    assert (float(rate), rate.dtype) == (0.25, learning_rates.current_rate(train_state).dtype)
    assert other.params is train_state.params
    assert other.optimizer.inner_state is train_state.optimizer.inner_state


def test_a_run_in_which_every_rate_diverges_says_so():
    assert loop.finetune(tuned(learning_rate=1e30, trial_rates=(1e35,))).status == "diverged"


def test_a_known_rate_is_used_from_the_first_step(monkeypatch):
    """As if the user had set it; the record says which it was."""
    monkeypatch.setattr(learning_rates, "known_rate", lambda spec, recipe: GOOD)
    known = loop.finetune(tuned(trial_rates=None))
    assert [r.learning_rate for r in known.records] == [None, GOOD, GOOD, GOOD]
    alone = loop.finetune(tuned(learning_rate=GOOD))
    assert without_rate(known.records) == without_rate(alone.records)
