"""The linear probe against scikit-learn's logistic regression."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ncap_jax import errors
from ncap_jax.predictor.linear_probe import FOLDS, INVERSE_PENALTY, fit, folds, linear_probe
from tests.support.transfer_task import make_task


@pytest.mark.parametrize(("n", "d", "classes"), [(120, 12, 4), (60, 80, 2)])
def test_accuracy_equals_scikit_learns_on_the_same_folds(n, d, classes):
    x, labels = make_task("features", n=n, width=d, classes=classes, separation=0.6)
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=5000))
    predicted = cross_val_predict(model, x, labels, cv=PredefinedSplit(folds(labels)))
    # Both optimise the same convex objective; a sample on the boundary may fall either way.
    assert abs(linear_probe(x, labels) - np.mean(predicted == labels)) <= 1.01 / n


def test_weights_equal_scikit_learns():
    x, labels = make_task("features", n=100, width=6, separation=0.5)
    weight = np.where(np.arange(100) < 70, 1.0, 0.0)
    with jax.enable_x64(True):
        ours = fit(x, np.eye(4)[labels], weight)
    theirs = LogisticRegression(C=INVERSE_PENALTY, tol=1e-10, max_iter=10_000)
    theirs.fit(x[:70], labels[:70])
    # The gradient is below 1e-5 and the curvature above 1/70.
    np.testing.assert_allclose(np.asarray(ours.kernel).T, theirs.coef_, atol=1e-3)
    ours_bias = np.asarray(ours.bias) - np.mean(np.asarray(ours.bias))
    np.testing.assert_allclose(ours_bias, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)


def test_folds_are_stratified():
    labels = np.random.default_rng(0).integers(0, 4, 203)
    fold = folds(labels)
    for c in range(4):
        counts = np.bincount(fold[labels == c], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


def test_chance_and_certainty():
    labels = np.arange(120) % 4
    noise = np.random.default_rng(0).normal(size=(120, 12))
    # A standard deviation of the accuracy of guesses is 4 %.
    assert abs(linear_probe(noise, labels) - 0.25) < 0.1
    assert linear_probe(np.eye(12)[labels], labels) == 1.0


def test_a_class_with_one_sample_cannot_be_probed():
    x, labels = make_task("features")
    labels[0] = 9
    with pytest.raises(errors.DataError) as error:
        linear_probe(x, labels)
    assert error.value.cause == "a class has only one sample"
    assert error.value.remedy == "Give at least two samples of every class"
