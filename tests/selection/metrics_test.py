"""Ranking metrics against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ncap_jax import errors
from ncap_jax.selection import metrics
from ncap_jax.types import Prediction
from tests.support.pool import make_pool


def values(seed: int, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.permutation(n) / n, rng.permutation(n) / n


@pytest.mark.parametrize("seed", range(4))
def test_kendall_tau_by_counting_pairs(seed):
    p, t = values(seed)
    signs = [
        np.sign(p[i] - p[j]) * np.sign(t[i] - t[j]) for i, j in itertools.combinations(range(9), 2)
    ]
    np.testing.assert_allclose(metrics.kendall_tau(p, t), np.mean(signs))


@pytest.mark.parametrize("seed", range(4))
def test_kendall_tau_with_ties_is_scipys(seed: int):
    rng = np.random.default_rng(seed)
    p, t = rng.integers(0, 4, 12) / 4, rng.integers(0, 4, 12) / 4
    np.testing.assert_allclose(metrics.kendall_tau(p, t), stats.kendalltau(p, t).statistic)


@pytest.mark.parametrize("seed", range(4))
def test_weighted_tau_by_counting_weighted_pairs(seed):
    p, t = values(seed)
    rank = {i: r for r, i in enumerate(np.argsort(-t))}
    total = agreed = 0.0
    for i, j in itertools.combinations(range(9), 2):
        weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
        total += weight
        agreed += weight * np.sign(p[i] - p[j]) * np.sign(t[i] - t[j])
    np.testing.assert_allclose(metrics.weighted_tau(p, t), agreed / total)


def test_weighted_tau_minds_the_top_more():
    t = np.arange(8.0)
    top, bottom = t.copy(), t.copy()
    top[[6, 7]], bottom[[0, 1]] = t[[7, 6]], t[[1, 0]]
    assert metrics.weighted_tau(top, t) < metrics.weighted_tau(bottom, t) < 1.0
    np.testing.assert_allclose(metrics.kendall_tau(top, t), metrics.kendall_tau(bottom, t))


@pytest.mark.parametrize("seed", range(4))
def test_spearman_is_the_correlation_of_ranks(seed):
    p, t = values(seed)
    np.testing.assert_allclose(metrics.spearman(p, t), np.corrcoef(p, t)[0, 1])


def test_regret_hits_and_relative_accuracy():
    p, t = np.array([0.9, 0.8, 0.7, 0.1]), np.array([0.80, 0.85, 0.70, 0.90])
    np.testing.assert_allclose(metrics.regret(p, t), 0.10)
    np.testing.assert_allclose(metrics.regret(p, t, k=2), 0.05)
    assert metrics.regret(p, t, k=4) == 0.0
    np.testing.assert_allclose(metrics.relative_accuracy(p, t), 0.80 / 0.90)
    np.testing.assert_allclose(metrics.relative_accuracy(p, t, k=2), 0.85 / 0.90)
    assert metrics.top_1_hit(p, t) == 0.0
    assert metrics.top_1_hit(t, t) == 1.0
    np.testing.assert_allclose(metrics.mean_absolute_error(p, t), (0.1 + 0.05 + 0.0 + 0.8) / 4)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_perfect_prediction_is_perfect(name):
    t = np.array([0.5, 0.9, 0.7, 0.6])
    perfect = 0.0 if "regret" in name or "error" in name else 1.0
    np.testing.assert_allclose(metrics.METRICS[name](t, t), perfect)


@pytest.mark.parametrize("name", ["kendall_tau", "weighted_tau", "spearman"])
def test_correlations_of_constants_are_nan(name):
    with np.errstate(all="ignore"):
        assert np.isnan(metrics.METRICS[name](np.ones(4), np.arange(4.0)))


def test_mean_over_seeds():
    pairs = [values(seed) for seed in range(5)]
    p, t = (np.stack(side) for side in zip(*pairs))
    interval = metrics.over_models_and_seeds(metrics.kendall_tau, p, t, draws=50)
    np.testing.assert_allclose(interval.value, np.mean([metrics.kendall_tau(*x) for x in pairs]))
    assert interval.low < interval.value < interval.high
    assert interval == metrics.over_models_and_seeds(metrics.kendall_tau, p, t, draws=50)
    assert str(interval).startswith(f"{interval.value:.3f} [")


def test_an_interval_is_between_the_central_quantiles_of_finite_samples():
    samples = np.append(np.arange(101.0), [np.nan, np.inf])
    assert metrics.interval(50.0, samples, level=0.9) == pytest.approx((50.0, 5.0, 95.0))
    nothing = metrics.interval(50.0, np.array([np.nan]))
    assert nothing.value == 50.0
    assert np.isnan([nothing.low, nothing.high]).all()


def test_interval_of_the_mean_error_covers_the_truth():
    """Models with known mean error 0.2: the 90 % interval holds it about 90 % of the time."""
    inside = []
    for seed in range(100):
        true = np.zeros((1, 30))
        predicted = np.random.default_rng(seed).exponential(0.2, size=(1, 30))
        interval = metrics.over_models_and_seeds(
            metrics.mean_absolute_error, predicted, true, level=0.9, draws=100, seed=seed
        )
        inside.append(interval.low <= 0.2 <= interval.high)
    # Binomial error of 100 trials 3 %; the percentile bootstrap is a little short at n = 30.
    assert 0.78 <= np.mean(inside) <= 0.97


def test_missing_predictions_are_left_out_of_their_seed():
    p, t = values(0)
    holed = p.copy()
    holed[2] = np.nan
    keep = np.arange(9) != 2
    interval = metrics.over_models_and_seeds(metrics.kendall_tau, holed, t, draws=10)
    np.testing.assert_allclose(interval.value, metrics.kendall_tau(p[keep], t[keep]))
    nothing = metrics.over_models_and_seeds(metrics.kendall_tau, np.full(9, np.nan), t, draws=10)
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.low)


def test_shapes_are_checked():
    with pytest.raises(errors.DataError) as error:
        metrics.over_models_and_seeds(metrics.kendall_tau, np.ones((2, 3)), np.ones(4))
    assert error.value.cause == "predicted has shape (2, 3), true has shape (4,)"
    assert error.value.remedy == "Give one value per model in both, and one row per seed"


def test_coverage_of_honest_and_of_overconfident_intervals():
    rng = np.random.default_rng(0)
    true = rng.normal(size=20_000)
    honest = [Prediction(float(m), 1.0) for m in true + rng.normal(size=true.size)]
    # Twenty thousand draws: standard error below 0.004.
    for level in (0.5, 0.8, 0.95):
        np.testing.assert_allclose(metrics.coverage(honest, true, level), level, atol=0.015)
    sure = [Prediction(p.mean, 0.5) for p in honest]
    assert metrics.coverage(sure, true) < 0.75
    assert np.isnan(metrics.coverage([Prediction(0.5)], [0.5]))


def test_cost_counts_the_first_epochs_only():
    pool = make_pool(models=2, epochs=8)
    bill = metrics.cost(pool, 3, full_seconds=[30.0, 50.0])
    assert bill.seconds == 2 * 4 * 1.5
    np.testing.assert_allclose(bill.fraction, 12.0 / 80.0)
    for seconds, said in (([1.0], "1 times"), ([0.0, 0.0], "2 times")):
        with pytest.raises(errors.DataError) as error:
            metrics.cost(pool, 3, full_seconds=seconds)
        assert error.value.cause == (
            f"{said} of full fine-tuning for 2 models, {sum(seconds):g} seconds in all"
        )
        assert error.value.remedy == "Give a positive number of seconds for each model"
