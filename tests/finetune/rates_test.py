"""Learning rates on trial: the first epoch at each, then on at the best."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import config as configs
from ncap_jax.finetune import loop, rates
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.types import EpochRecord, RankConfig
from ncap_jax.zoo import MODELS
from tests.small import small_config, small_digits, small_spec

GOOD, BAD = 3e-3, 30.0


@pytest.fixture(scope="module")
def digits():
    return make_feed(small_digits())


def run(digits, **changes):
    changes = {"epochs": 3, "head": "trainable_probe", **changes}
    return loop.finetune(small_spec(), digits, small_config(**changes))


def without_seconds(record):
    return dataclasses.replace(record, seconds=0.0, measure_seconds=0.0, learning_rate=None)


def test_which_rates_are_tried():
    tiny, other = MODELS["tiny_resnet"], MODELS["resnet50"]
    assert rates.of(tiny, RankConfig()) == (1e-3,)
    assert rates.of(other, RankConfig()) == (1e-3, 3e-4)
    assert rates.of(other, RankConfig(learning_rate=1e-4)) == (1e-4,)  # chosen by somebody
    assert rates.of(other, RankConfig(optimizer="sgd")) == (1e-3,)
    assert rates.of(other, RankConfig(learning_rate=3e-4, trial_rates=(3e-4,))) == (3e-4,)
    assert rates.of(tiny, RankConfig(trial_rates=(1e-2,))) == (1e-3, 1e-2)
    assert rates.of(other, RankConfig(trial_rates=())) == (1e-3,)


@pytest.mark.parametrize("order", [(GOOD, BAD), (BAD, GOOD)])
def test_the_run_is_that_of_the_better_rate(digits, order):
    first, *others = order
    alone = run(digits, learning_rate=GOOD)
    tried = run(digits, learning_rate=first, trial_rates=tuple(others))
    assert [r.learning_rate for r in tried.records] == [None, GOOD, GOOD, GOOD]
    assert [r.learning_rate for r in alone.records] == [None] * 4
    assert list(map(without_seconds, tried.records)) == list(map(without_seconds, alone.records))


def test_it_goes_on_at_its_rate_after_an_interruption(digits, tmp_path):
    config = small_config(epochs=3, learning_rate=BAD, trial_rates=(GOOD,))
    whole = loop.finetune(small_spec(), digits, config)
    checkpoints = Checkpoints(tmp_path / "model")
    first = loop.finetune(small_spec(), digits, config, checkpoints=checkpoints, until=1)
    assert first.status == "stopped"
    rest = loop.finetune(small_spec(), digits, config, checkpoints=checkpoints, seen=first.records)
    assert list(map(without_seconds, rest.records)) == list(map(without_seconds, whole.records))
    assert rest.records[-1].learning_rate == GOOD


def test_of_losses_the_lowest_and_no_nan(digits):
    """Every attempt starts from the same state."""
    candidate = loop.prepare(small_spec(), digits, small_config())
    start = np.array(candidate.train_state.params["backbone"]["conv"]["kernel"])
    losses = {0.1: math.nan, 0.2: 2.0, 0.3: 1.0, 0.4: 1.0}
    seen = []

    def attempt(state):
        rate = rates.chosen(state, tuple(losses))
        seen.append(rate)
        kernel = state.params["backbone"]["conv"]["kernel"]
        np.testing.assert_array_equal(kernel, start)
        kernel.delete()  # as a donating step does
        return state, EpochRecord(1, 0.0, 0.0, losses[rate], 0.0)

    state, record = rates.best(candidate.train_state, tuple(losses), attempt)
    assert seen == list(losses)
    assert (rates.chosen(state, tuple(losses)), record.validation_loss) == (0.3, 1.0)


def test_a_run_in_which_every_rate_diverges_says_so(digits):
    found = run(digits, learning_rate=1e30, trial_rates=(1e35,))
    assert found.status == "diverged"


@pytest.mark.parametrize("wrong", [(0.0,), (1e-3, -1.0), (math.inf,), (math.nan,)])
def test_rates_that_are_none(wrong):
    with pytest.raises(errors.ConfigError, match=r"trial_rates.*positive"):
        configs.check_config(RankConfig(trial_rates=wrong))
