"""Several splits of the data: the mean record, and states on disk."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from ncap_jax.finetune import splits
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.types import ClassCounts, EpochRecord
from tests.support.small import small_tuning


def record(number: int, **changes) -> EpochRecord:
    fields = {
        "epoch": 2,
        "train_loss": 1.0 * number,
        "train_accuracy": 0.1 * number,
        "validation_loss": 2.0 * number,
        "validation_accuracy": 0.2 * number,
        "running_loss": 3.0 * number,
        "beta_eff": {"signed": (1.0 * number, -1.0 * number)},
        "beta_eff_status": {"signed": ("ok", "ok")},
        "measure_seconds": 1.0,
    }
    return EpochRecord(**{**fields, **changes})


def test_the_mean_record():
    found = splits.mean([record(1), record(2), record(3)])
    assert (found.epoch, found.train_loss, found.validation_loss) == (2, 2.0, 4.0)
    assert found.train_accuracy == pytest.approx(0.2)
    assert found.validation_accuracy == pytest.approx(0.4)
    assert found.running_loss == 6.0
    assert found.beta_eff == {"signed": (2.0, -2.0)}
    assert found.beta_eff_status == {"signed": ("ok", "ok")}
    assert (found.measure_seconds, found.features) == (3.0, "")


def test_answers_on_all_splits_are_counted_together():
    one = ClassCounts((3, 1), ((2, 0), (1, 1)), ((3, 1), (1, 3)))
    other = ClassCounts((2, 2), ((2, 1), (0, 2)), ((3, 1), (0, 4)))
    found = splits.mean([record(1, validation_counts=one), record(2, validation_counts=other)])
    assert found.validation_counts == ClassCounts((5, 3), ((4, 1), (1, 3)), ((6, 2), (1, 7)))
    bare = splits.mean([record(1, validation_counts=one), record(2)])
    assert bare.validation_counts is None


def test_one_record_is_itself():
    one = record(1)
    assert splits.mean([one]) is one


def test_what_is_wrong_on_one_split_is_wrong():
    broken = record(
        2,
        validation_loss=math.nan,
        running_loss=None,
        beta_eff_status={"signed": ("ok", "ill_conditioned")},
        features="constant",
    )
    found = splits.mean([record(1), broken])
    assert math.isnan(found.validation_loss)
    assert found.running_loss == 3.0
    assert found.beta_eff_status == {"signed": ("ok", "ill_conditioned")}
    assert found.features == "constant"


def test_states_of_twelve_splits_come_back_in_their_order(tmp_path):
    """Ten comes after two, not after one."""
    candidate = small_tuning(head="linear").candidate
    state = candidate.train_state
    states = [
        state._replace(params=jax.tree.map(lambda leaf, n=n: leaf + n, state.params))
        for n in range(12)
    ]
    store = Checkpoints(tmp_path / "model")
    store.save(3, splits.kept(states))
    found = splits.restored(store.restore(3, splits.kept([state] * 12)))
    for one, other in zip(states, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    first = splits.first(store, 3, candidate, 12)
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)


def test_one_state_is_kept_as_it_always_was():
    state = small_tuning(head="linear").candidate.train_state
    assert splits.kept([state]) is state
