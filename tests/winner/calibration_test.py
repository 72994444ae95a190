"""Temperature scaling: what it repairs, and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from ncap_jax import errors
from ncap_jax.winner import calibration
from ncap_jax.winner.calibration import (
    calibrated_metrics,
    fit_temperature,
    scaled_probabilities,
)
from ncap_jax.winner.metrics import classification_metrics

NAMES = ("a", "b", "c", "d")


def drawn(
    count: int, temperature: float, seed: int = 0, scale: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true once they are divided by a temperature; labels."""
    draw = np.random.default_rng(seed)
    honest = draw.normal(scale=scale, size=(count, 4))
    labels = np.argmax(softmax(honest, axis=1).cumsum(axis=1) > draw.random((count, 1)), axis=1)
    return honest * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    # Its standard error is 2 % with 4,000 images.
    assert fit_temperature(*drawn(4000, temperature)) == pytest.approx(temperature, rel=0.06)


def test_the_calibration_error_falls_and_no_answer_changes():
    temperature = fit_temperature(*drawn(4000, 3.0))
    logits, labels = drawn(4000, 3.0, seed=1)
    figures = calibrated_metrics(logits, labels, NAMES, temperature)
    plain = calibrated_metrics(logits, labels, NAMES, None)
    assert figures.uncalibrated_error == plain.calibration_error > 0.15
    assert figures.calibration_error < 0.03
    assert figures.log_loss < plain.log_loss
    assert figures.accuracy == plain.accuracy
    assert figures.confusion == plain.confusion
    assert plain.uncalibrated_error is None


def test_the_prior_helps_where_images_are_few_and_vanishes_where_they_are_many(monkeypatch):
    def log_loss(logits, labels, temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()

    new = drawn(2000, 1.0, seed=99, scale=8.0)

    def excess(count):
        fitted = [fit_temperature(*drawn(count, 1.0, seed, 8.0)) for seed in range(15)]
        return np.mean([log_loss(*new, t) for t in fitted]) - log_loss(*new, 1.0)

    few, many = excess(20), excess(200)
    monkeypatch.setattr(calibration, "PRIOR_SPREAD", np.inf)
    assert few < 0.05 < 0.5 < excess(20)
    assert many == pytest.approx(excess(200), abs=2e-3)


def test_a_small_validation_part_without_mistakes_makes_no_model_certain():
    logits = np.tile([4.0, 0.0, 0.0, 0.0], (20, 1))
    temperature = fit_temperature(logits, np.zeros(20, int))
    assert 0.5 < temperature < 1
    assert fit_temperature(logits, np.ones(20, int)) < 100


def test_probabilities_are_those_of_softmax():
    logits = np.array([[1.0, 2.0, 0.0], [1e4, -1e4, 0.0]])
    for temperature in (None, 1.0, 2.5):
        found = scaled_probabilities(logits, temperature)
        assert found.dtype == np.float32
        expected = softmax(logits / (temperature or 1.0), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)
        classification_metrics(found, [1, 0], ("a", "b", "c"))


def test_what_cannot_be_scaled_is_refused():
    remedy = "Give (n, K): one row for each image, one column for each class."
    for logits, labels, message in (
        (np.zeros((0, 3)), [], f"logits have shape (0, 3). {remedy}"),
        (np.zeros(3), [0], f"logits have shape (3,). {remedy}"),
        (
            np.array([[0.0, np.inf]]),
            [0],
            "some logits are NaN or infinite. Take another model: this one has diverged.",
        ),
        (
            np.zeros((2, 3)),
            [0],
            "there are logits of 2 images but labels of shape (1,). "
            "Give one whole number for each image.",
        ),
    ):
        with pytest.raises(errors.DataError) as refused:
            fit_temperature(logits, labels)
        assert str(refused.value) == message
