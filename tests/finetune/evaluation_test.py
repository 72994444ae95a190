"""What a record says of a model as it stands, whatever the batches."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.finetune import candidate as candidates
from ncap_jax.finetune import evaluation, steps
from ncap_jax.types import ClassCounts
from tests.support.compilations import compilations
from tests.support.small import small_digits, small_feed, small_spec, small_tuning

CHANGES = {"head": "linear", "measure_size": 64}


@pytest.fixture(scope="module")
def tuning():
    return small_tuning(**CHANGES)


def expected(tuning, images, labels):
    """Mean loss and accuracy of one pass over all samples, and the answers."""
    params, state, _ = tuning.candidate.train_state
    network = tuning.candidate.network
    forward = jax.jit(steps.forward, static_argnames=("network", "train"))
    logits, _ = forward(network, params, state, jnp.asarray(images), train=False)
    log_p = np.asarray(jax.nn.log_softmax(logits[0]))
    losses = -log_p[np.arange(len(labels)), labels]
    given = log_p.argmax(axis=1)
    return float(losses.mean()), float(np.mean(given == labels)), given


@pytest.mark.parametrize("batch", [7, 32, 70, 256])
def test_evaluation_counts_every_sample_once(tuning, monkeypatch, batch):
    monkeypatch.setattr(candidates, "EVALUATION_BATCH", batch)
    digits = small_digits()
    sums = evaluation.evaluate(tuning, tuning.candidate.train_state)
    labels = digits.validation_labels
    loss, accuracy, given = expected(tuning, digits.validation_images, labels)
    assert float(sums.samples) == 70
    assert float(sums.correct[0]) == round(70 * accuracy)
    assert float(sums.loss[0]) / 70 == pytest.approx(loss, rel=1e-5)
    assert evaluation.class_counts(sums) == ClassCounts(
        *(
            tuple(np.bincount(labels, minlength=10).tolist()),
            (tuple(np.bincount(labels[given == labels], minlength=10).tolist()),),
            (tuple(np.bincount(given, minlength=10).tolist()),),
        )
    )


def test_a_record_holds_both_parts_and_what_is_measured(tuning):
    digits, asked = small_digits(), []
    measured = {"signed": (0.25,)}, {"signed": ("ok",)}

    def measure(*arguments):
        asked.append(arguments)
        return measured

    train_state = tuning.candidate.train_state
    record = evaluation.observe(dataclasses.replace(tuning, measure=measure), train_state)
    assert (record.beta_eff, record.beta_eff_status) == measured
    assert record.measure_seconds > 0
    subset = tuning.candidate.measurement
    assert len(subset) == 64
    for part, (images, labels) in {
        "train": (digits.images[subset], digits.labels[subset]),
        "validation": (digits.validation_images, digits.validation_labels),
    }.items():
        loss, accuracy, _ = expected(tuning, images, labels)
        assert getattr(record, f"{part}_loss") == pytest.approx(loss, rel=1e-5)
        assert getattr(record, f"{part}_accuracy") == pytest.approx(accuracy)
    assert sum(record.validation_counts.images) == 70
    assert sum(record.validation_counts.correct[0]) == round(70 * record.validation_accuracy)
    ((given, features, labels),) = asked
    assert given is train_state
    np.testing.assert_array_equal(labels, digits.labels[subset])
    assert features.shape == (64, 12)


def test_without_a_measure_nothing_is_recorded_of_beta_eff(tuning):
    record = evaluation.observe(tuning, tuning.candidate.train_state)
    assert (record.epoch, record.running_loss) == (0, None)
    assert (record.beta_eff, record.beta_eff_status) == ({}, {})


def test_only_the_chosen_epochs_are_measured(tuning):
    chosen = dataclasses.replace(
        tuning, measure=lambda *_: ({"signed": (0.25,)}, {"signed": ("ok",)}), measured={0, 2}
    )
    train_state = tuning.candidate.train_state
    records = [evaluation.observe(chosen, train_state, epoch) for epoch in range(3)]
    assert [record.epoch for record in records] == [0, 1, 2]
    assert [bool(record.beta_eff) for record in records] == [True, False, True]
    assert [bool(record.beta_eff_status) for record in records] == [True, False, True]


def test_features_are_of_the_measurement_subset_in_its_order(tuning, monkeypatch):
    """Of an untouched model the same as a candidate's before its first step."""
    images, labels = small_feed().subset(tuning.candidate.measurement)
    network, (params, state, _) = tuning.candidate.network, tuning.candidate.train_state
    wanted = steps.features(network, params, state, images)
    monkeypatch.setattr(candidates, "EVALUATION_BATCH", 32)
    for found in (
        evaluation.measurement_features(tuning, tuning.candidate.train_state),
        evaluation.untouched_features(small_spec(), small_feed(), tuning.config),
    ):
        np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[1], labels)


def test_a_check_is_asked_after_every_batch(tuning, monkeypatch):
    monkeypatch.setattr(candidates, "EVALUATION_BATCH", 32)
    asked = []
    checked = dataclasses.replace(tuning, deadline=lambda: asked.append(1))
    evaluation.evaluate(checked, tuning.candidate.train_state)
    assert len(asked) == 3  # 70 samples


@pytest.mark.parametrize(
    ("features", "flaw"),
    [
        ([[1.0, 2.0], [1.0, 2.5]], ""),
        ([[0.0, 0.0], [0.0, 1e-30]], ""),  # small, but all that there is
        ([[1.0, 2.0], [1.0, 2.0]], "constant"),
        ([[1.0, 2.0], [1.0, np.nextafter(np.float32(2), np.float32(3))]], "constant"),
        ([[0.0, 0.0], [0.0, 0.0]], "constant"),
        ([[1.0, 2.0]], ""),  # a single image tells nothing
        ([[1.0, math.nan], [1.0, 2.0]], "not finite"),
        ([[math.inf, 1.0], [math.inf, 1.0]], "not finite"),
    ],
)
def test_what_is_wrong_with_features(features, flaw):
    assert evaluation.feature_flaw(jnp.asarray(features, jnp.float32)) == flaw


def test_looking_at_features_compiles_nothing(tuning):
    features, _ = evaluation.measurement_features(tuning, tuning.candidate.train_state)
    with compilations() as programs:
        evaluation.feature_flaw(features)
    assert programs == []
