"""Learning rates, the end of training and the best epoch, by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ncap_jax.options import FinishConfig
from ncap_jax.types import ClassCounts, EpochRecord
from ncap_jax.winner import convergence

NAN = float("nan")


def records(accuracies: list[float], losses: list[float] | None = None) -> list[EpochRecord]:
    """Records with these validation figures; all losses are 1 if none are given."""
    pairs = zip(accuracies, losses or [1.0] * len(accuracies), strict=True)
    return [EpochRecord(n, NAN, NAN, loss, right) for n, (right, loss) in enumerate(pairs)]


def rates(config: FinishConfig, epoch: int, losses: list[float] | None = None) -> list[float]:
    """Of the two steps of an epoch, at the rate 1."""
    seen = records([0.5] * len(losses or []), losses)
    found = convergence.learning_rates(config, 1.0, epoch, 2, seen)
    assert found.dtype == np.float32
    return found.tolist()


def test_cosine_falls_step_by_step_to_zero():
    config = FinishConfig(max_epochs=2)
    assert rates(config, 1) == pytest.approx([1.0, (1 + math.cos(math.pi / 4)) / 2])
    assert rates(config, 2) == pytest.approx([0.5, (1 + math.cos(3 * math.pi / 4)) / 2])


def test_a_warm_up_rises_in_equal_steps_and_the_cosine_begins_after_it():
    config = FinishConfig(max_epochs=4, warmup_epochs=2)
    assert rates(config, 1) == pytest.approx([0.25, 0.5])
    assert rates(config, 2) == pytest.approx([0.75, 1.0])
    assert rates(config, 3) == pytest.approx([1.0, (1 + math.cos(math.pi / 4)) / 2])


@pytest.mark.parametrize("warmup", [4, 9])
def test_a_warm_up_as_long_as_the_training_is_all_there_is(warmup):
    config = FinishConfig(max_epochs=4, warmup_epochs=warmup)
    assert rates(config, 4) == pytest.approx([7 / 2 / warmup, 4 / warmup])


def test_a_constant_rate_stays():
    assert rates(FinishConfig(schedule="constant"), 25) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "drops"),
    [
        ([], 0),
        ([3.0, 2.0, 1.0], 0),
        ([1.0, 1.0], 0),
        ([1.0, 1.0, 2.0], 1),
        ([1.0, 2.0, 0.5, 0.6], 0),
        ([1.0, 2.0, 2.0, 2.0, 2.0], 2),
        ([1.0, NAN, NAN], 1),
    ],
)
def test_plateaus_lower_the_rate(losses, drops):
    assert convergence.plateaus(losses) == drops
    found = rates(FinishConfig(schedule="plateau"), 9, losses)
    assert found == pytest.approx([(1 / 3) ** drops] * 2)


@pytest.mark.parametrize(
    ("accuracies", "losses", "place"),
    [
        ([0.5, 0.7, 0.6], [1.0, 9.0, 1.0], 1),
        ([0.5, 0.7, 0.7], [1.0, 2.0, 1.0], 2),
        ([0.7, 0.7, 0.7], [1.0, 1.0, 1.0], 0),
        ([0.5, 0.9, 0.4], [1.0, NAN, 1.0], 0),
        ([0.5, 0.9], [NAN, NAN], 0),
    ],
)
def test_the_best_epoch(accuracies, losses, place):
    assert convergence.best(records(accuracies, losses)) == place


def test_the_best_epoch_is_that_of_the_metric():
    """The first has the higher accuracy, by the large class alone."""
    images = (90, 10)
    counts = (
        ClassCounts(images, ((90, 0),), ((100, 0),)),
        ClassCounts(images, ((60, 9),), ((61, 39),)),
    )
    seen = [
        dataclasses.replace(record, validation_counts=each)
        for record, each in zip(records([0.9, 0.69]), counts, strict=True)
    ]
    for metric, place in (("accuracy", 0), ("balanced_accuracy", 1), ("macro_f1", 1)):
        assert convergence.best(seen, metric) == place
    config = FinishConfig(patience=1)
    assert convergence.is_over(seen, config)
    assert not convergence.is_over(seen, config, "macro_f1")


def test_training_ends_when_patience_does():
    config = FinishConfig(patience=2)
    assert not convergence.is_over(records([0.5]), config)
    assert not convergence.is_over(records([0.5, 0.4]), config)
    assert convergence.is_over(records([0.5, 0.4, 0.3]), config)
    assert not convergence.is_over(records([0.5, 0.4, 0.6, 0.5]), config)


def test_training_ends_when_the_epochs_do():
    config = FinishConfig(max_epochs=2)
    assert not convergence.is_over(records([0.1, 0.2]), config)
    assert convergence.is_over(records([0.1, 0.2, 0.3]), config)
