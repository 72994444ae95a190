"""How a fine-tuning ended, from its records."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ncap_jax.finetune import outcome
from ncap_jax.options import Recipe
from ncap_jax.types import EpochRecord

RECORDS = tuple(EpochRecord(epoch, 1.0, 0.5, 1.0, 0.5) for epoch in range(3))


def ended(epochs=2, **changes):
    """Three records, of which the last one is changed."""
    last = dataclasses.replace(RECORDS[-1], **changes)
    return outcome.end((*RECORDS[:-1], last), Recipe(epochs=epochs))


def test_a_run_ends_after_its_last_epoch_and_pauses_before():
    assert ended() == ("ok", "")
    assert ended(epochs=3) == ("stopped", "")


def test_what_is_not_finite_has_diverged():
    loss = ("diverged", outcome.divergence(2, Recipe()))
    assert ended(validation_loss=math.nan) == ended(running_loss=math.inf) == loss
    assert ended(features="not finite") == (
        "diverged",
        outcome.divergence(2, Recipe(), "features are"),
    )


def test_features_that_tell_no_image_from_another_are_said():
    assert ended(features="constant") == ("ok", outcome.sameness(2))
    assert outcome.sameness(2).startswith(
        "its features are the same for all images after epoch 2: "
    )


@pytest.mark.parametrize(
    ("epoch", "dtype", "message"),
    [
        (3, "float32", "after epoch 3; a smaller learning_rate may help"),
        (3, "bfloat16", "after epoch 3; a smaller learning_rate may help"),
        (0, "bfloat16", 'after epoch 0, before any training; try dtype="float32"'),
        (
            0,
            "float32",
            "after epoch 0, before any training: its weights do not fit its preprocessing, or are "
            "damaged",
        ),
    ],
)
def test_what_is_said_of_a_divergence(epoch, dtype, message):
    assert outcome.divergence(epoch, Recipe(dtype=dtype)) == f"the loss is not finite {message}"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["train_loss", "validation_loss", "running_loss"])
def test_a_loss_that_is_not_finite_ends_a_model(field, wrong):
    record = EpochRecord(1, 1.0, 0.5, 1.0, 0.5, running_loss=1.0)
    assert outcome.is_finite(record)
    assert outcome.is_finite(dataclasses.replace(record, running_loss=None))
    assert not outcome.is_finite(dataclasses.replace(record, **{field: wrong}))


def test_features_that_are_not_finite_end_a_model_whatever_its_losses():
    record = EpochRecord(1, 1.0, 0.5, 1.0, 0.5)
    assert not outcome.is_finite(dataclasses.replace(record, features="not finite"))
    assert outcome.is_finite(dataclasses.replace(record, features="constant"))
