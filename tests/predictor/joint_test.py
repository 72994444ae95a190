"""The joint regression: its equation, its invariances, what it learns and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import kendalltau

from ncap_jax import errors
from ncap_jax.predictor import PREDICTORS, joint
from ncap_jax.predictor.joint import BETA, CURVE
from ncap_jax.types import Trajectory
from tests.support.pool import make_pool, with_last

ALL = CURVE + BETA


def pools_of(law, count=4, models=10, epochs=3):
    """Pools whose ends follow `law(trajectory)` on the logit scale, and those ends."""
    pools = [make_pool(models, epochs, seed) for seed in range(count)]
    return pools, [[float(1 / (1 + np.exp(-law(t)))) for t in pool] for pool in pools]


def test_features_by_hand():
    (trajectory,) = make_pool(1, epochs=4)
    records = trajectory.records
    found = {name: joint.feature(trajectory, name) for name in ALL}
    assert found["validation_accuracy"] == pytest.approx(logit(records[-1].validation_accuracy))
    assert found["train_loss"] == pytest.approx(-np.log(records[-1].train_loss))
    assert found["validation_loss"] == pytest.approx(-np.log(records[-1].validation_loss))
    running = [r.running_loss for r in records[1:]]
    assert found["running_loss"] == pytest.approx(-np.log(np.mean(running)))
    for strength in ("absolute", "squared"):
        first, last = records[0].beta_eff[strength][0], records[-1].beta_eff[strength][0]
        assert found[f"beta_{strength}"] == pytest.approx(-np.log(last))
        assert found[f"fall_{strength}"] == pytest.approx(np.log(first) - np.log(last))


def test_scores_are_the_equation():
    pool = make_pool(5)
    weights = {"validation_loss": 0.7, "beta_absolute": -0.2}
    x = np.array([[joint.feature(t, name) for name in weights] for t in pool])
    expected = (x - x.mean(axis=0)) @ [0.7, -0.2]
    found = [p.mean for p in joint.scores(pool, weights)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert sum(found) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["validation_loss", "beta_absolute", "fall_squared"])
def test_learns_the_feature_that_decides(name):
    pools, finals = pools_of(lambda t: 0.5 * joint.feature(t, name))
    weights = joint.fit(pools[:-1], finals[:-1], 3, [name])
    assert weights[name] > 0
    answers = joint.scores(pools[-1], weights)
    assert kendalltau([p.mean for p in answers], finals[-1]).statistic == pytest.approx(1.0)


def test_how_hard_a_set_is_does_not_matter():
    """(J2) looks at differences within a pool, in units of the pool's own spread."""
    pools, finals = pools_of(lambda t: 0.5 * joint.feature(t, "train_loss"))
    harder = [[float(1 / (1 + np.exp(1.5 - 0.4 * logit(f)))) for f in row] for row in finals]
    found = joint.fit(pools, finals, 3, CURVE)
    assert joint.fit(pools, harder, 3, CURVE) == pytest.approx(found)


def test_an_arbitrary_sample_of_the_pool_keeps_its_order():
    pool = make_pool(9)
    weights = dict.fromkeys(ALL, 0.3)
    whole = [p.mean for p in joint.scores(pool, weights)]
    part = [p.mean for p in joint.scores(pool[::2], weights)]
    assert np.argsort(part).tolist() == np.argsort(whole[::2]).tolist()


def test_a_model_without_beta_eff_counts_as_average_in_it():
    pool = make_pool(4)
    bare = tuple(dataclasses.replace(r, beta_eff={}) for r in pool[1].records)
    pool[1] = dataclasses.replace(pool[1], records=bare)
    answers = joint.scores(pool, {"beta_absolute": 1.0})
    assert answers[1].mean == 0.0
    assert sum(answers[i].mean for i in (0, 2, 3)) == pytest.approx(0.0, abs=1e-12)
    pool[2] = with_last(pool[2], validation_loss=float("nan"))
    assert joint.scores(pool, {"validation_loss": 1.0})[2].flag


def test_the_weights_of_the_epochs_reached_are_used():
    table = {1: {"train_loss": 1.0}, 3: {"train_loss": 2.0}}
    method = joint.predictor(table)
    pool = make_pool(4, epochs=4)
    one, two, four = ([p.mean for p in method(pool, n)] for n in (1, 2, 4))
    log = [[-np.log(t.records[n].train_loss) for t in pool] for n in (1, 2, 4)]
    np.testing.assert_allclose(one, np.array(log[0]) - np.mean(log[0]))
    np.testing.assert_allclose(two, np.array(log[1]) - np.mean(log[1]))
    np.testing.assert_allclose(four, 2 * (np.array(log[2]) - np.mean(log[2])))


def test_runs_of_unequal_length_are_compared_with_their_like():
    pool = make_pool(6, epochs=4)
    pool[:3] = [dataclasses.replace(t, records=t.records[:3]) for t in pool[:3]]
    answers = joint.predictor({1: {"train_loss": 1.0}})(pool)
    assert sum(p.mean for p in answers[:3]) == pytest.approx(0.0, abs=1e-12)
    assert sum(p.mean for p in answers[3:]) == pytest.approx(0.0, abs=1e-12)


def test_too_little_to_learn_from():
    pools, finals = pools_of(lambda t: 0.0, count=2)
    with pytest.raises(errors.ConfigError) as error:
        joint.fit(pools[:1], finals[:1], 3, CURVE)
    assert error.value.cause == "only 1 pools of finished runs to learn from"
    assert error.value.remedy == "Give at least 2 pools"
    with pytest.raises(errors.ConfigError) as error:
        joint.fit(pools, finals, 3, CURVE)
    assert error.value.cause == (
        "no pool has two models with all features and different final accuracies"
    )
    assert error.value.remedy == "Record every epoch's losses and beta_eff, or use fewer features"
    empty = Trajectory("empty", "probe", ())
    assert np.isnan(joint.feature(empty, "train_loss"))
    assert np.isnan(joint.feature(empty, "beta_absolute"))


def test_the_registrys_method_is_the_product_of_beta_eff_and_loss():
    pool = make_pool(6)
    found = [p.mean for p in PREDICTORS["capacitance"](pool)]
    last = [t.records[-1] for t in pool]
    expected = np.array([-np.log(r.beta_eff["absolute"][0] * r.validation_loss) for r in last])
    np.testing.assert_allclose(found, expected - expected.mean(), rtol=1e-9)
