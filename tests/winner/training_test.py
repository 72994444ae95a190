"""Training to convergence; what a kill leaves is tested in tests/run/finishing_test.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.finetune.steps import TrainState
from ncap_jax.options import FinishConfig, RankConfig
from ncap_jax.types import EpochRecord
from ncap_jax.winner import training
from ncap_jax.winner.training import Course, converge

NAN = float("nan")
RANKED = tuple(EpochRecord(n, 1.0, 0.3, 1.0, 0.3) for n in range(3))


def state(number: float) -> TrainState:
    """The state after an epoch, which its number tells."""
    return TrainState({"w": jnp.array([number])}, {"s": jnp.array([number])}, {})


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains fake epochs whose accuracies are given; the ranking ended after epoch 2."""
    candidate: Any = SimpleNamespace(train_state=state(0), program=SimpleNamespace(mesh=None))
    tuning: Any = SimpleNamespace(candidate=candidate, config=RankConfig())

    def run(accuracies, seen=RANKED, losses=None, **options):
        def train(course, train_state, records):
            place = records[-1].epoch - 2
            # It goes on from the state of the epoch before.
            assert float(train_state.params["w"][0]) == records[-1].epoch
            right, loss = accuracies[place], (losses or [1.0] * 9)[place]
            epoch = records[-1].epoch + 1
            return state(epoch), EpochRecord(epoch, NAN, NAN, loss, right, running_loss=loss)

        monkeypatch.setattr(training, "train", train)
        course = Course(tuning, tuning, FinishConfig(**{"patience": 2, **options}), first=2)
        found = converge(course, seen, lambda: state(2), checkpoints=Checkpoints(tmp_path))
        assert float(found.weights.params["w"][0]) == found.best_epoch
        assert float(found.weights.state["s"][0]) == found.best_epoch
        return found

    return run


def test_the_best_epoch_is_kept_and_patience_ends_the_training(run):
    found = run([0.4, 0.6, 0.5, 0.6, 0.9])
    assert [record.epoch for record in found.records] == [0, 1, 2, 3, 4, 5, 6]
    assert found.best_epoch == 4
    assert found.merit == (0.6, -1.0)


def test_a_model_that_training_harms_stays_what_the_ranking_left(run):
    found = run([0.2, 0.1])
    assert found.best_epoch == 2
    assert len(found.records) == 5


def test_the_epochs_end(run):
    assert len(run([0.4, 0.5, 0.6], max_epochs=2).records) == 5


def test_a_loss_that_is_not_finite_ends_the_training(run):
    found = run([0.5, 0.9, 0.9], losses=[1.0, NAN, 1.0])
    assert found.best_epoch == 3
    assert len(found.records) == 5


def test_it_resumes_with_the_best_epoch_so_far(run):
    begun = run([0.6, 0.5], max_epochs=2)
    again = run([NAN, NAN, 0.55, 0.4], seen=begun.records, max_epochs=3)
    assert again.records[:5] == begun.records
    assert len(again.records) == 6
    assert again.best_epoch == 3
    over = run([], seen=again.records, max_epochs=3)
    assert repr(over.records) == repr(again.records)
    assert over.best_epoch == 3


def test_class_weights_let_every_class_count_alike():
    labels = np.array([0] * 6 + [1] * 3 + [3] * 3)
    weights = training.class_weights(labels, 5)
    assert weights == pytest.approx((4 / 6, 4 / 3, 4, 4 / 3, 4))
    assert sum(weights[label] for label in labels) == pytest.approx(len(labels))


def test_copies_outlive_the_state_that_is_donated():
    here = state(1)
    copied = training.on_host(here)
    here.params["w"].delete()
    assert copied.params["w"].tolist() == [1.0]
