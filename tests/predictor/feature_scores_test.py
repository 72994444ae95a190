"""The scores of features that a recall goes by."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor import feature_scores as scores
from ncap_jax.predictor.linear_probe import linear_probe
from ncap_jax.predictor.logme import logme
from ncap_jax.predictor.nearest_neighbours import nearest_neighbours


def features(width: int, classes: int = 3, each: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(labels.size, width)) + 0.7 * np.eye(width)[labels]
    return x.astype(np.float32), labels


def test_padding_changes_no_score():
    x, y = features(width=20)
    assert scores.padded(x).shape == (24, 64)
    assert scores.padded(np.ones((2, 65))).shape == (2, 128)
    assert scores.padded(np.ones((2, 128))).shape == (2, 128)
    found = scores.feature_scores(x, y)
    assert found["logme"] == pytest.approx(logme(x, y), abs=1e-4)
    assert found["linear_probe"] == pytest.approx(linear_probe(x, y), abs=1e-6)
    assert found["nearest_neighbours"] == pytest.approx(nearest_neighbours(x, y), abs=1e-6)
    assert len(found) == 3


def test_classes_with_one_sample_are_left_out():
    x, y = features(width=20)
    more = np.concatenate([x, 9 * np.ones((1, 20), np.float32)]), np.append(y, 7)
    assert scores.feature_scores(*more) == scores.feature_scores(x, y)
    with pytest.raises(errors.DataError, match="fewer than two classes have two samples"):
        scores.feature_scores(x[:3], np.array([0, 0, 1]))
