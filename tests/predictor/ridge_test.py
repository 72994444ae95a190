"""The ridge against closed-form Bayesian linear regression, and the scale trap."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ncap_jax.predictor.ridge import fit_line, points, ridge_prediction
from tests.support.pool import make_pool, measured_after, with_last


def evidence_maximum(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """MacKay's fixed point for (R2), written out for one centred feature in plain NumPy."""
    xc, yc = x - x.mean(), y - y.mean()
    alpha, lam = 1 / y.var(), 1.0
    for _ in range(10_000):
        precision = alpha * xc @ xc + lam
        slope = alpha * xc @ yc / precision
        gamma = alpha * xc @ xc / precision
        residual = np.sum((yc - slope * xc) ** 2)
        lam, alpha = (
            (gamma + 2e-6) / (slope**2 + 2e-6),
            (x.size - gamma + 2e-6) / (residual + 2e-6),
        )
    return alpha, lam


def closed_form(x: np.ndarray, y: np.ndarray, alpha: float, lam: float):
    """Posterior of (θ0, θ1): normal, precision α XᵀX + diag(0, λ); θ0 has a flat prior."""
    design = np.stack([np.ones_like(x), x], axis=1)
    covariance = np.linalg.inv(alpha * design.T @ design + np.diag([0.0, lam]))
    return alpha * covariance @ design.T @ y, covariance


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 5, 12])
def test_posterior_equals_the_closed_form(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.2, 1.0, n)
    x[0] = 1.0  # largest is 1: scaled units are the given units
    y = 0.9 - 0.4 * x + 0.02 * rng.normal(size=n)
    fit = fit_line(x, y, scaled=True)
    alpha, lam = evidence_maximum(x, y)
    mean, covariance = closed_form(x, y, alpha, lam)
    # docs/numerics.md#prediction (ridge): both stop at a fixed point to about 1e-8 of the slope.
    np.testing.assert_allclose([fit.intercept, fit.slope], mean, rtol=1e-5)
    np.testing.assert_allclose(
        [fit.intercept_std, fit.slope_std], np.sqrt(np.diag(covariance)), rtol=1e-4
    )
    np.testing.assert_allclose(fit.noise_std, alpha**-0.5, rtol=1e-4)
    at = np.array([0.0, 0.3, 2.0])
    design = np.stack([np.ones(3), at], axis=1)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", design, covariance, design))
    np.testing.assert_allclose(fit.line_std(at), expected, rtol=1e-4)


def test_published_mode_is_scikit_learn_as_it_comes():
    from sklearn.linear_model import BayesianRidge

    (trajectory,) = make_pool(1)
    beta, accuracy, _ = points(trajectory, "signed")
    model = BayesianRidge().fit(beta[:, None], accuracy)
    answer = ridge_prediction(trajectory, "signed", scaled=False)
    assert answer.mean == model.predict([[0.0]])[0]


def test_std_is_that_of_the_value_at_zero_not_scikit_learns():
    (trajectory,) = make_pool(1)
    beta, accuracy, _ = points(trajectory, "absolute")
    fit = fit_line(beta, accuracy, scaled=True)
    published = ridge_prediction(trajectory, "absolute", scaled=False)
    scaled = ridge_prediction(trajectory, "absolute", scaled=True)
    plain = fit_line(beta, accuracy, scaled=False)
    assert published.std == plain.intercept_std
    np.testing.assert_allclose(scaled.std**2, fit.intercept_std**2 + fit.noise_std**2)


def line_at_scale(scale: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.array([1.0, 0.8, 0.6, 0.45, 0.3])
    return scale * x, 0.9 - 0.5 * x


def test_the_scale_trap_of_the_published_mode():
    """With beta_eff around 1e-4 the slope collapses to 0 and the answer is the mean accuracy."""
    x, y = line_at_scale(1.0)
    assert abs(fit_line(x, y, scaled=False).intercept - 0.9) < 0.01
    x, y = line_at_scale(1e-4)
    trapped = fit_line(x, y, scaled=False)
    assert abs(trapped.intercept - y.mean()) < 0.01
    assert abs(trapped.slope * 1e-4) < 0.01  # truth: -0.5


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e6, -1e-4])
def test_the_scaled_mode_has_no_scale_trap(scale):
    x, y = line_at_scale(scale)
    fit = fit_line(x, y, scaled=True)
    np.testing.assert_allclose(fit.intercept, 0.9, atol=1e-3)
    np.testing.assert_allclose(fit.slope * scale, -0.5, atol=1e-3)
    reference = fit_line(*line_at_scale(1.0), scaled=True)
    np.testing.assert_allclose(fit.intercept_std, reference.intercept_std, rtol=1e-4)


def with_line(accuracy: list[float], beta: list[float]):
    """A trajectory with the given accuracy and absolute beta_eff after epoch 0."""
    (trajectory,) = make_pool(1, epochs=len(beta))
    records = [
        dataclasses.replace(r, validation_accuracy=a, beta_eff={"absolute": (b,)})
        for r, a, b in zip(trajectory.records[1:], accuracy, beta)
    ]
    return dataclasses.replace(trajectory, records=(trajectory.records[0], *records))


def test_value_outside_zero_one_is_flagged():
    answer = ridge_prediction(
        with_line([0.5, 0.6, 0.7], [1.0, 0.9, 0.8]), strength="absolute", scaled=True
    )
    assert answer.mean > 1
    assert "outside [0, 1]" in answer.flag


def test_value_far_outside_the_data_is_flagged():
    answer = ridge_prediction(
        with_line([0.30, 0.35, 0.40], [1.0, 0.9, 0.8]), strength="absolute", scaled=True
    )
    assert 0 < answer.mean < 1
    assert "far outside" in answer.flag


def test_a_plausible_value_is_not_flagged():
    accuracy = [0.5, 0.605, 0.695, 0.8]
    answer = ridge_prediction(with_line(accuracy, [0.4, 0.3, 0.2, 0.1]), "absolute", scaled=True)
    assert answer.flag == ""


@pytest.mark.parametrize("beta", [0.0, 3e-4])
def test_constant_beta_eff_gives_the_mean_and_says_so(beta):
    answer = ridge_prediction(with_line([0.5, 0.6, 0.7], [beta] * 3), "absolute", scaled=True)
    np.testing.assert_allclose(answer.mean, 0.6)
    assert "does not vary" in answer.flag


def test_two_points_are_flagged():
    answer = ridge_prediction(with_line([0.5, 0.6], [0.2, 0.1]), "absolute", scaled=True)
    assert "2 points" in answer.flag


def test_non_finite_epochs_are_left_out():
    trajectory = with_line([0.5, 0.6, 0.7, 0.75], [0.4, 0.3, 0.2, 0.1])
    shorter = with_line([0.5, 0.6, 0.7], [0.4, 0.3, 0.2])
    answer = ridge_prediction(
        with_last(trajectory, beta_eff={"absolute": (np.nan,)}), "absolute", scaled=True
    )
    assert answer.mean == ridge_prediction(shorter, "absolute", scaled=True).mean
    assert "left out" in answer.flag


def test_missing_beta_eff_is_flagged():
    answer = ridge_prediction(with_line([0.5, 0.6], [0.2, 0.1]), "signed", scaled=False)
    assert np.isnan(answer.mean)
    assert "no signed beta_eff" in answer.flag


def test_epochs_that_were_not_measured_are_left_out_in_silence():
    whole = with_line([0.5, 0.6, 0.7, 0.75], [0.4, 0.3, 0.2, 0.1])
    every_other = measured_after(whole, {0, 1, 3})
    answer = ridge_prediction(every_other, "absolute", scaled=True)
    expected = fit_line(np.array([0.4, 0.2]), np.array([0.5, 0.7]), scaled=True)
    assert answer.mean == expected.intercept
    assert "2 points" in answer.flag
    assert "left out" not in answer.flag


def test_ill_conditioned_epochs_are_flagged():
    trajectory = with_line([0.5, 0.6, 0.7], [0.4, 0.3, 0.2])
    shaky = with_last(trajectory, beta_eff_status={"absolute": ("ok", "ill_conditioned")})
    assert "ill-conditioned" in ridge_prediction(shaky, "absolute", scaled=True).flag
    assert "ill-conditioned" not in ridge_prediction(trajectory, "absolute", scaled=True).flag
