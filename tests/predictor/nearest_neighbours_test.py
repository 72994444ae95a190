"""The accuracy of nearest neighbours against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ncap_jax.predictor.nearest_neighbours import NEIGHBOURS, TEMPERATURE, nearest_neighbours
from tests.support.transfer_task import make_task


def votes(distances: np.ndarray) -> np.ndarray:
    """Of scikit-learn's cosine distances."""
    return np.exp(-distances / TEMPERATURE)


@pytest.mark.parametrize(("n", "d", "classes"), [(120, 12, 4), (60, 80, 2), (15, 6, 3)])
def test_accuracy_equals_scikit_learns(n, d, classes):
    x, labels = make_task("features", n=n, width=d, classes=classes, separation=0.6)
    model = KNeighborsClassifier(min(NEIGHBOURS, n - 1), metric="cosine", weights=votes)
    # Standardised by all samples: nothing of the labels is in that.
    scaled = StandardScaler().fit_transform(x)
    predicted = cross_val_predict(model, scaled, labels, cv=LeaveOneOut())
    assert nearest_neighbours(x, labels) == np.mean(predicted == labels)


def test_chance_and_certainty():
    labels = np.arange(120) % 4
    noise = np.random.default_rng(0).normal(size=(120, 12))
    # A standard deviation of the accuracy of guesses is 4 %.
    assert abs(nearest_neighbours(noise, labels) - 0.25) < 0.12
    assert nearest_neighbours(np.eye(12)[labels], labels) == 1.0


def test_a_features_scale_and_columns_without_content_change_nothing():
    x, labels = make_task("features", n=80, width=8, classes=4, separation=0.6)
    score = nearest_neighbours(x, labels)
    assert nearest_neighbours(np.pad(x, ((0, 0), (0, 24))), labels) == score
    assert nearest_neighbours(x * 2.0 ** np.arange(8) + 1.0, labels) == score


def test_the_nearer_neighbours_count_more():
    """Of each sample the one twin is of its class, and 20 others, further off, are not."""
    angles = np.concatenate([np.array([0.0, 0.02]), np.linspace(1.5, 4.5, 20)])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 0] + [1] * 20)
    assert nearest_neighbours(x, labels) == 1.0


def test_a_sample_of_its_own_class_is_never_right():
    """Of 30 samples the others vote, and none of them is of its class."""
    x = np.random.default_rng(0).normal(size=(30, 3))
    assert nearest_neighbours(x, np.array([0] * 29 + [1])) == 29 / 30
