"""Few validation images: the training loss counts as much as the accuracy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ncap_jax import predictor as predictors
from ncap_jax.predictor import last_seen
from ncap_jax.predictor.accuracy_and_loss import where_images_are_few
from ncap_jax.predictor.validation_size import FEW
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

predict = where_images_are_few(last_seen.predict)
ACCURACIES, LOSSES = (0.50, 0.60, 0.70), (0.9, 0.2, 0.7)


def runs(images: int | None, accuracies=ACCURACIES, losses=LOSSES, epochs: int = 1):
    counts = None if images is None else ClassCounts((images,), ((0,),), ((images,),))
    return [
        Trajectory(
            str(i),
            "linear",
            tuple(
                EpochRecord(epoch, loss, accuracy, 1.0, accuracy, 1.0, validation_counts=counts)
                for epoch in range(epochs + 1)
            ),
        )
        for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def test_both_count_alike():
    """Equation (V2) by hand."""
    p, loss = np.array(ACCURACIES), np.array(LOSSES)
    both = (p - p.mean()) / p.std() + (loss.mean() - loss) / loss.std()
    found = predict(runs(FEW - 1))
    assert [f.mean for f in found] == pytest.approx((p.mean() + p.std() * both / 2).tolist())
    assert np.argmax([f.mean for f in found]) == 1  # the lowest loss, though not the best accuracy
    assert all("training loss" in f.flag for f in found)


@pytest.mark.parametrize("images", [FEW, None])
def test_of_enough_images_or_an_unknown_number_the_accuracy_decides(images):
    found = predict(runs(images))
    assert [(f.mean, f.flag) for f in found] == [(p, "") for p in ACCURACIES]


def test_of_equal_accuracies_the_losses_decide():
    found = [f.mean for f in predict(runs(20, accuracies=(0.5, 0.5, 0.5)))]
    assert np.argsort(found).tolist() == [0, 2, 1]
    assert np.mean(found) == pytest.approx(0.5)
    assert np.ptp(found) < 0.25
    assert [f.mean for f in predict(runs(20, (0.5,) * 3, (0.3,) * 3))] == [0.5] * 3


def test_models_of_other_lengths_are_not_compared():
    """After a race: what is said of those that went on is as without the others."""
    long, short = runs(30, epochs=2), runs(30, accuracies=(0.2, 0.3), losses=(5.0, 4.0))
    assert predict([*long, *short])[:3] == predict(long)
    (alone,) = predict(runs(30, accuracies=(0.4,), losses=(1.0,)))
    assert (alone.mean, alone.flag) == (0.4, "")


def test_without_a_finite_loss_the_accuracy_stays_and_without_an_accuracy_nothing():
    pool = runs(30, accuracies=(0.5, 0.6, 0.7, math.nan), losses=(0.9, 0.2, math.nan, 0.1))
    found = predict(pool)
    assert (found[2].mean, found[2].flag) == (0.7, "")
    assert math.isnan(found[3].mean)
    assert found[:2] == predict(pool[:2])


def test_the_default_ranks_by_it():
    default = predictors.get("default", "linear")
    pool = runs(30, epochs=2)
    assert default(pool) == predict(pool)
    plain = [dataclasses.replace(t, model=f"{t.model}!") for t in runs(FEW, epochs=2)]
    assert [p.mean for p in default(plain)] == list(ACCURACIES)
