"""H-score against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax.predictor.hscore import hscore
from tests.support.transfer_task import make_task


def by_definition(features, labels):
    """tr(cov(f)⁺ cov(E[f|y])), formed densely."""
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / len(labels)
    conditional = np.stack([centred[labels == c].mean(axis=0) for c in labels])
    between = conditional.T @ conditional / len(labels)
    return np.trace(np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) @ between)


@pytest.mark.parametrize(("n", "d", "classes"), [(120, 12, 4), (50, 30, 7), (20, 60, 3)])
def test_equals_the_definition(n, d, classes):
    x, labels = make_task("features", n=n, width=d, classes=classes)
    np.testing.assert_allclose(hscore(x, labels), by_definition(x, labels), rtol=1e-8)


def test_unbalanced_classes():
    x, labels = make_task("features")
    labels = np.minimum(labels, 1)
    np.testing.assert_allclose(hscore(x, labels), by_definition(x, labels), rtol=1e-8)


def test_bounds_and_affine_invariance():
    x, labels = make_task("features")
    a = np.random.default_rng(0).normal(size=(x.shape[1],) * 2)
    assert 0 <= hscore(x, labels) <= 3
    np.testing.assert_allclose(hscore(x @ a + 5.0, labels), hscore(x, labels), rtol=1e-8)
    assert hscore(np.ones_like(x), labels) == 0.0
    np.testing.assert_allclose(hscore(np.eye(12)[labels], labels), 3.0)
