"""From scores to accuracies: order, spread, growth, and what happens with little data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from ncap_jax.predictor import PREDICTORS, growth, last_seen
from ncap_jax.predictor.calibration import accuracies, fit_relation, logit_normal
from ncap_jax.predictor.growth import EDGE
from ncap_jax.predictor.validation_size import FEW
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory
from tests.support.pool import make_pool, with_last

LOSS = PREDICTORS["last_validation_loss"]
SCORES = sorted(name for name, p in PREDICTORS.items() if p.scores_only)


def curve(name: str, measured: list[float], losses: list[float]) -> Trajectory:
    """A run with these accuracies and losses."""
    records = tuple(
        EpochRecord(i, loss, a, loss, a) for i, (a, loss) in enumerate(zip(measured, losses))
    )
    return Trajectory(name, "linear", records)


@pytest.mark.parametrize("name", ["last_seen", "curve_families", "published_ridge"])
def test_methods_that_predict_accuracies_are_taken_at_their_word(name: str):
    pool = make_pool(models=3)
    assert repr(accuracies(PREDICTORS[name], pool, 3)) == repr(PREDICTORS[name](pool, 3))


@pytest.mark.parametrize("name", ["last_seen", "last_validation_loss"])
def test_scores_that_are_known_already_are_used(name: str):
    pool = make_pool(models=3)
    known = PREDICTORS[name](pool)
    assert repr(accuracies(PREDICTORS[name], pool, scores=known)) == repr(
        accuracies(PREDICTORS[name], pool)
    )
    other = [dataclasses.replace(p, flag="seen before") for p in known]
    assert all("seen before" in a.flag for a in accuracies(PREDICTORS[name], pool, scores=other))


def test_an_empty_pool_has_no_accuracies():
    assert accuracies(LOSS, []) == []


@pytest.mark.parametrize("name", SCORES)
def test_the_order_of_the_scores_is_kept(name):
    pool = make_pool()
    scores = [p.mean for p in PREDICTORS[name](pool)]
    found = [p.mean for p in accuracies(PREDICTORS[name], pool)]
    assert np.argsort(scores).tolist() == np.argsort(found).tolist()
    assert all(0 < a < 1 for a in found)


@pytest.mark.parametrize("name", SCORES)
def test_predictions_cover_the_true_limits(name):
    """The pool's limits are known: about 95 % lie within two standard deviations."""
    inside = []
    for seed in range(10):
        pool = make_pool(epochs=5, seed=seed)
        limits = np.linspace(0.95, 0.7, len(pool))
        answers = accuracies(PREDICTORS[name], pool)
        inside += [abs(a.mean - t) <= 2 * a.std for a, t in zip(answers, limits)]
    # 80 predictions in 10 pools that share their gain: the share itself is known to about 5 %.
    assert np.mean(inside) > 0.85


def test_relation_of_one_model_is_plain_least_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    z = 0.5 + 2.0 * x + 0.1 * rng.normal(size=40)
    design = np.stack([np.ones(40), x], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, z, rcond=None)
    relation = fit_relation(x, z, np.arange(40))
    np.testing.assert_allclose([relation.level, relation.slope], solution)
    np.testing.assert_allclose(relation.noise, np.sqrt(residual[0] / 38))


def test_relation_starts_from_the_level_of_the_last_epoch():
    rng = np.random.default_rng(0)
    epoch = np.repeat(np.arange(1, 6), 400)
    x = rng.normal(size=2000)
    drift = 0.3 * epoch
    relation = fit_relation(x, 2.0 * x + drift + 0.1 * rng.normal(size=2000), epoch)
    # Two thousand records with noise 0.1: standard errors below 0.01.
    np.testing.assert_allclose(relation.slope, 2.0, atol=0.05)
    np.testing.assert_allclose(relation.level, 1.5, atol=0.05)
    np.testing.assert_allclose(relation.noise, 0.1, atol=0.01)


def test_a_decreasing_relation_is_refused():
    x = np.arange(5.0)
    epoch = np.arange(5)
    assert fit_relation(x, -x, epoch) is None
    assert fit_relation(x[:2], x[:2], epoch[:2]) is None
    assert fit_relation(np.ones(5), x, epoch) is None


def test_logit_normal_moments_against_sampling():
    draws = expit(np.random.default_rng(0).normal(1.2, 0.8, 2_000_000))
    mean, std, slope = logit_normal(1.2, 0.8)
    # Two million draws: standard error about 1e-4.
    np.testing.assert_allclose([mean, std], [draws.mean(), draws.std()], atol=5e-4)
    change = logit_normal(1.2 + 1e-5, 0.8).mean - logit_normal(1.2 - 1e-5, 0.8).mean
    np.testing.assert_allclose(slope, change / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(logit_normal(0.0, 0.0), (0.5, 0.0, 0.25), atol=1e-12)


def test_pairs_are_ordered_at_least_as_often_as_is_said():
    """P(i better than j) from `own_std` against the known limits, over many pools.

    These synthetic curves saturate sooner than the real runs that the spread was fitted to; how
    well it holds on those: tests/experiments/corpus_test.py.
    """
    said, right = [], []
    for seed in range(20):
        pool = make_pool(epochs=4, seed=seed)  # made best first
        answers = accuracies(LOSS, pool)
        for i, a in enumerate(answers):
            for b in answers[i + 1 :]:
                p = norm.cdf((a.mean - b.mean) / np.hypot(a.own_std, b.own_std))
                said.append(max(p, 1 - p))
                right.append(p > 0.5)
    # 560 pairs in 20 pools: the share that is right is known to about 3 %.
    assert 0.6 < np.mean(said) < np.mean(right) + 0.08


def test_what_all_models_share_does_not_blur_who_is_better():
    for answer in accuracies(LOSS, make_pool(epochs=3)):
        assert 0 < answer.own_std < answer.std


def test_without_a_relation_the_last_seen_accuracy_is_shown():
    # Higher loss, higher accuracy: nothing increasing can be fitted.
    pool = [curve(str(i), [0.1, 0.5 + 0.1 * i], [2.0, 0.5 + 0.1 * i]) for i in range(4)]
    for trajectory, answer in zip(pool, accuracies(LOSS, pool)):
        assert answer.mean == trajectory.records[-1].validation_accuracy
        assert np.isnan(answer.std)
        assert "do not explain" in answer.flag


def test_few_records_and_few_epochs_are_flagged():
    assert "4 records" in accuracies(LOSS, make_pool(models=2, epochs=2))[0].flag
    assert "one epoch only" in accuracies(LOSS, make_pool(epochs=1))[0].flag
    assert accuracies(LOSS, make_pool())[0].flag == ""


def test_a_broken_model_does_not_disturb_the_others():
    pool = make_pool()
    broken = with_last(pool[0], validation_loss=np.nan, validation_accuracy=np.nan)
    answers = accuracies(LOSS, [broken, *pool[1:]])
    assert np.isnan(answers[0].mean)
    assert answers[0].flag
    assert all(np.isfinite(a.mean) and np.isfinite(a.std) for a in answers[1:])


def test_perfect_accuracy_stays_finite():
    pool = [
        curve(str(i), [0.1, 0.9, 0.99, 1.0, 1.0], [2.3, 0.3, 0.05, 0.001 * i, 0.0])
        for i in range(3)
    ]
    for answer in accuracies(LOSS, pool):
        assert 0 < answer.mean <= 1
        assert np.isfinite(answer.std)
    assert logit(1 - EDGE) < 6


def test_truncation():
    pool = make_pool(epochs=8)
    start = [dataclasses.replace(t, records=t.records[:5]) for t in pool]
    assert repr(accuracies(LOSS, pool, epochs=4)) == repr(accuracies(LOSS, start))


def test_leads_shrink_with_what_is_still_to_be_gained_and_keep_their_order():
    """(G2): with one spread of the noise, the logits' distances shrink by exp(-k √(gain u))."""
    pool = make_pool(epochs=3)
    known, head = growth.PRIORS[pool[0].head], pool[0].head
    priors = [known._replace(spread=0.0, own=0.0, scatter=0.0, shrink=k) for k in (0.0, 0.5)]
    free, drawn = ([a.mean for a in accuracies(LOSS, pool, priors={head: p})] for p in priors)
    assert np.array_equal(np.argsort(free), np.argsort(drawn))
    curve, _ = growth.mean_curve(pool)
    left = growth.lead_left(priors[1], growth.gain(pool, known), float(curve[-1] - curve[0]))
    assert left < 0.9
    # The mean of a logit-normal is not quite the expit of its middle: 3 % here.
    np.testing.assert_allclose(np.ptp(logit(drawn)) / np.ptp(logit(free)), left, rtol=0.05)


def test_the_fewer_images_the_less_sure():
    """(G3) and, of few images, (V3) leave the order as it is."""
    pool = make_pool(epochs=3)
    plain = accuracies(LOSS, pool)
    found = [accuracies(LOSS, pool, images=images) for images in (10**9, 100, 10)]
    np.testing.assert_allclose(
        [(a.mean, a.own_std) for a in found[0]], [(a.mean, a.own_std) for a in plain], rtol=1e-6
    )
    order = [np.argsort([a.mean for a in answers]).tolist() for answers in found]
    assert order[0] == order[1] == order[2]
    sure = [sum(a.own_std for a in answers) / len(pool) for answers in found]
    assert sure[0] < sure[1] < sure[2]


def test_of_few_images_leads_are_drawn_in_by_the_share_of_luck_in_them():
    """(V3) by hand, for the score that is the accuracy itself, in a pool that gains nothing."""
    ends = (0.3, 0.5, 0.6, 0.8, 0.9)
    pool = [curve(str(e), [0.1, 0.6 * e, 0.9 * e + 0.02, e], [1.0] * 4) for e in ends]
    head, images = pool[0].head, 45
    prior = growth.PRIORS[head]._replace(growth=0.0)
    accuracy = dataclasses.replace(
        PREDICTORS["last_seen"], scores_only=True, link=last_seen.logit_link
    )
    answers = accuracies(accuracy, pool, priors={head: prior}, images=images)

    seen = np.array([t.series("validation_accuracy") for t in pool])
    laplace = (images * seen + 1) / (images + 2)
    plain, drawn = (logit(np.clip(p, EDGE, 1 - EDGE)) for p in (seen, laplace))
    epochs = np.repeat([1, 2, 3], len(pool))
    relation = fit_relation(plain[:, 1:].T.ravel(), drawn[:, 1:].T.ravel(), epochs)
    lines = relation.level + relation.slope * plain[:, -1]
    luck = np.mean(1 / (images * laplace[:, -1] * (1 - laplace[:, -1])))
    signal = max(lines.var() - luck, lines.var() / 2)
    trusted = signal / lines.var()
    assert 0.5 < trusted < 0.9
    start, level = plain.mean(axis=0)[[0, -1]].tolist()
    rises = level - start + np.maximum(0.0, np.append(lines - lines.mean(), 0.0))
    apart = growth.scatter(prior, 0.0, rises, np.sqrt(signal))
    *owns, whole = np.sqrt(trusted * max(relation.noise**2, luck) + apart**2)
    std = np.hypot(growth.HEAVY * whole, growth.gain_error(prior, 0.0, level - start, level))
    for answer, line, own in zip(answers, lines.tolist(), owns, strict=True):
        end = lines.mean() + trusted * (line - lines.mean())
        expected = logit_normal(float(end), float(std))
        np.testing.assert_allclose([answer.mean, answer.std], expected[:2], rtol=1e-9)
        np.testing.assert_allclose(answer.own_std, growth.QUARTILES * own * expected.slope)


def test_of_many_images_leads_are_trusted_whole():
    """From `FEW` on (V3) does nothing: a prediction changes with the luck of (G3) alone."""
    pool = make_pool(epochs=3)
    few, many = (accuracies(LOSS, pool, images=images) for images in (FEW - 1, FEW))
    apart = [np.ptp([a.mean for a in answers]) for answers in (few, many)]
    assert apart[0] < 0.9 * apart[1]
    free = np.ptp([a.mean for a in accuracies(LOSS, pool)])
    # The mean of a logit-normal moves a little with its spread.
    assert apart[1] == pytest.approx(free, rel=0.05)


def test_the_images_that_the_records_count_are_taken():
    counts = ClassCounts((30, 10), ((20, 5),), ((20, 20),))
    pool = [
        dataclasses.replace(
            t, records=tuple(dataclasses.replace(r, validation_counts=counts) for r in t.records)
        )
        for t in make_pool(epochs=3)
    ]
    assert repr(accuracies(LOSS, pool)) == repr(accuracies(LOSS, make_pool(epochs=3), images=40))
    assert repr(accuracies(LOSS, pool, images=7)) == repr(
        accuracies(LOSS, make_pool(epochs=3), images=7)
    )


def test_a_pool_that_has_hardly_risen_is_stated_as_unsure():
    """(C2) has (G4): of two pools that gain as much, the one with less of a climb is less sure."""
    pool, head = make_pool(epochs=3), make_pool(epochs=3)[0].head
    priors = [
        growth.PRIORS[head]._replace(spread=0.0, own=0.0, scatter=0.0, unforeseen=w)
        for w in (0.0, 1.0)
    ]
    sure, unsure = (accuracies(LOSS, pool, priors={head: p}) for p in priors)
    curve, _ = growth.mean_curve(pool)
    level, rise = float(curve[-1]), float(curve[-1] - curve[0])
    error = growth.gain_error(priors[1], growth.gain(pool, priors[1]), rise, level)
    for a, b in zip(sure, unsure, strict=True):
        more = np.sqrt(b.std**2 - a.std**2) / (b.mean * (1 - b.mean))
        # The delta method: exact for small deviations only.
        assert more == pytest.approx(error, rel=0.25)
