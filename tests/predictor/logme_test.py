"""LogME against the evidence written out and maximised numerically."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import ncap_jax.predictor
from ncap_jax.predictor.logme import logme
from tests.support.transfer_task import make_task


def log_evidence(features, y, log_alpha, log_beta):
    """Log N(y; 0, F Fᵀ/α + I/β): the marginal likelihood by its definition, dense."""
    n = len(y)
    covariance = features @ features.T / np.exp(log_alpha) + np.eye(n) / np.exp(log_beta)
    return multivariate_normal.logpdf(y, np.zeros(n), covariance)


def maximum_evidence(features, labels):
    """Mean over classes of the maximum over (α, β), per sample, by Nelder-Mead."""
    scores = []
    for c in np.unique(labels):
        y = (labels == c).astype(float)
        best = min(
            (
                minimize(
                    lambda p, y=y: -log_evidence(features, y, *p),
                    start,
                    method="Nelder-Mead",
                    options={"xatol": 1e-7, "fatol": 1e-11, "maxiter": 4000},
                )
                for start in ([0.0, 0.0], [3.0, 1.0])
            ),
            key=lambda result: result.fun,
        )
        scores.append(-best.fun / len(y))
    return np.mean(scores)


def formula_at_fixed_point(features, labels):
    """The published formula and its fixed point, with A and m formed densely."""
    n, d = features.shape
    scores = []
    for c in np.unique(labels):
        y = (labels == c).astype(float)
        alpha = beta = 1.0
        sigma = np.linalg.eigvalsh(features.T @ features)
        for _ in range(500):
            matrix = alpha * np.eye(d) + beta * features.T @ features
            m = beta * np.linalg.solve(matrix, features.T @ y)
            gamma = np.sum(beta * sigma / (alpha + beta * sigma))
            residual = np.sum((features @ m - y) ** 2)
            evidence = (
                n / 2 * np.log(beta)
                + d / 2 * np.log(alpha)
                - n / 2 * np.log(2 * np.pi)
                - beta / 2 * residual
                - alpha / 2 * m @ m
                - np.linalg.slogdet(matrix)[1] / 2
            )
            alpha, beta = gamma / (m @ m), (n - gamma) / residual
        scores.append(evidence / n)
    return np.mean(scores)


@pytest.mark.parametrize(("n", "d", "classes"), [(40, 6, 4), (60, 20, 4), (25, 25, 2), (40, 60, 4)])
@pytest.mark.parametrize("separation", [0.3, 1.0])
def test_equals_the_maximum_of_the_marginal_likelihood(n, d, classes, separation):
    x, labels = make_task("features", n=n, width=d, classes=classes, separation=separation)
    # The optimiser's own error; at the maximum the evidence is flat.
    np.testing.assert_allclose(logme(x, labels), maximum_evidence(x, labels), rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(120, 12), (60, 20), (40, 60)])
def test_equals_the_published_formula_at_its_fixed_point(n, d):
    x, labels = make_task("features", n=n, width=d, separation=0.5)
    np.testing.assert_allclose(logme(x, labels), formula_at_fixed_point(x, labels), rtol=1e-8)


def test_is_invariant_to_scale_and_rotation_of_the_features():
    x, labels = make_task("features")
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(x.shape[1],) * 2))
    np.testing.assert_allclose(logme(100.0 * x, labels), logme(x, labels), rtol=1e-9)
    np.testing.assert_allclose(logme(x @ q, labels), logme(x, labels), rtol=1e-9)


def test_features_without_use_do_not_help():
    """Repeating a feature adds nothing to the span; the evidence of padding zeros is equal."""
    x, labels = make_task("features", n=40, width=6)
    padded = np.concatenate([x, np.zeros((40, 54))], axis=1)  # now n < d
    np.testing.assert_allclose(logme(padded, labels), logme(x, labels), rtol=1e-9)


def test_noise_scores_below_signal_when_there_are_fewer_samples_than_features():
    x, labels = make_task("features", n=40, width=60, separation=1.0)
    noise, _ = make_task("features", n=40, width=60, separation=0.0, seed=1)
    assert logme(x, labels) > logme(noise, labels)


def test_zero_features_score_as_no_features():
    """With F = 0 the evidence is that of y ~ N(0, 1/β) at its best β, class by class."""
    _, labels = make_task("features")
    shares = np.bincount(labels) / labels.size
    expected = np.mean(-0.5 * (1 + np.log(2 * np.pi * shares)))
    np.testing.assert_allclose(logme(np.zeros((labels.size, 12)), labels), expected, rtol=1e-9)


def test_perfectly_separable_features_are_finite():
    labels = np.arange(120) % 4
    for dtype in (np.float32, np.float64):
        assert np.isfinite(logme(np.eye(12, dtype=dtype)[labels], labels))


def test_is_reached_from_the_package():
    x, labels = make_task("features")
    assert ncap_jax.predictor.logme.logme(x, labels) == logme(x, labels)
