"""The time that is left, on simulated clocks."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ncap_jax.report.pace import Pace
from tests.support.pool import make_pool

MODELS, EPOCHS = 13, 5
START, EPOCH = 20.0, 3.0  # seconds


def after(models: int, epochs: int, side_by_side: int = 1) -> tuple[float, float]:
    """Estimated and true seconds left when `models` are done and the next has `epochs` epochs."""
    pace, busy = Pace(), 0.0
    for number in range(models + 1):
        last = EPOCHS if number < models else epochs
        for record in make_pool(1, EPOCHS)[0].records[: last + 1]:
            # The program is compiled before epoch 0 and within epoch 1.
            seconds = {0: START / 2, 1: START / 2 + EPOCH}.get(record.epoch, EPOCH)
            pace.epoch(f"model_{number}", dataclasses.replace(record, seconds=seconds))
            busy += seconds
    epochs_left = (MODELS - models) * EPOCHS - epochs
    estimate = pace.left(busy / side_by_side, epochs_left, MODELS - models - 1)
    total = MODELS * (START + EPOCHS * EPOCH)
    return estimate, (total - busy) / side_by_side


@pytest.mark.parametrize(("models", "epochs"), [(0, 2), (0, 5), (1, 0), (1, 2), (7, 3), (12, 4)])
def test_starts_and_epochs_are_told_apart(models, epochs):
    estimate, truth = after(models, epochs)
    assert estimate == pytest.approx(truth)


def test_the_mean_over_epochs_would_be_far_off():
    _, truth = after(0, 2)
    spent = START + 2 * EPOCH
    assert spent / 2 * (MODELS * EPOCHS - 2) > 1.5 * truth


def test_models_side_by_side():
    estimate, truth = after(7, 5, side_by_side=4)
    # How much of the time went into starts cannot be seen here; it is bounded by what was seen.
    assert 0.3 * truth < estimate < 1.5 * truth


def test_unknown_before_a_trained_epoch_and_nothing_at_the_end():
    pace = Pace()
    record = make_pool(1, 1)[0].records[0]
    pace.epoch("a", record)
    assert math.isnan(pace.left(10.0, 5, 1))
    assert pace.left(10.0, 0, 0) == 0.0
