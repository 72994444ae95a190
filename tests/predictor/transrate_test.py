"""TransRate against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax.predictor.transrate import EPSILON, transrate
from tests.support.transfer_task import make_task


def by_definition(features, labels, epsilon=EPSILON):
    """Equation (T1) with d × d log-determinants."""

    def rate(z):
        n, d = z.shape
        return 0.5 * np.linalg.slogdet(np.eye(d) + z.T @ z / (n * epsilon))[1]

    z = features - features.mean(axis=0)
    classes = np.unique(labels)
    return rate(z) - np.mean([rate(z[labels == c]) for c in classes])


@pytest.mark.parametrize(("n", "d", "classes"), [(120, 12, 4), (50, 30, 7), (20, 60, 3)])
@pytest.mark.parametrize("epsilon", [EPSILON, 0.1])
def test_equals_the_definition(n, d, classes, epsilon):
    x, labels = make_task("features", n=n, width=d, classes=classes)
    expected = by_definition(x, labels, epsilon)
    np.testing.assert_allclose(transrate(x, labels, epsilon), expected, rtol=1e-8)


def test_unbalanced_classes():
    x, labels = make_task("features")
    labels = np.where(np.arange(len(labels)) < 5, 1, 0)
    np.testing.assert_allclose(transrate(x, labels), by_definition(x, labels), rtol=1e-8)


def test_constant_features_carry_nothing():
    x, labels = make_task("features")
    assert transrate(np.ones_like(x), labels) == 0.0
    np.testing.assert_allclose(transrate(x + 7.0, labels), transrate(x, labels), rtol=1e-9)


def test_float32_features_in_the_hundreds_some_of_them_dead():
    """Seen with SqueezeNet: more features than samples, 0 to 250, a few always 0."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(20, 60, size=(60, 120)), 0).astype(np.float32)
    features[:, :8] = 0.0
    labels = np.arange(60) % 6
    found = transrate(features, labels)
    assert np.isfinite(found)
    assert found == transrate(features.astype(np.float64), labels)
