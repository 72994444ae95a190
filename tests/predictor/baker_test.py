"""ν-SVR on curve features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import kendalltau

from ncap_jax import errors
from ncap_jax.predictor import baker
from tests.support.pool import make_pool


def corpus(models: int = 12, epochs: int = 8, seed: int = 0):
    return make_pool(models, epochs, seed), np.linspace(0.95, 0.7, models)


def test_features_are_values_and_differences():
    features = baker.curve_features(np.array([0.1, 0.4, 0.6, 0.7]))
    np.testing.assert_allclose(features, [0.1, 0.4, 0.6, 0.7, 0.3, 0.2, 0.1, -0.1, -0.1])
    assert baker.curve_features(np.array([0.3])).tolist() == [0.3]


def test_learns_from_other_models():
    pool, final = corpus()
    answers = baker.leave_one_out(pool, final, epochs=5)
    predicted = [p.mean for p in answers]
    assert kendalltau(predicted, final).statistic > 0.6
    assert np.mean(np.abs(np.array(predicted) - final)) < 0.04
    assert np.mean([abs(p.mean - f) < 2 * p.std for p, f in zip(answers, final)]) > 0.8


@pytest.fixture
def one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to choose from: what a model is told does not depend on the search."""
    monkeypatch.setattr(baker, "GRID", {name: values[:1] for name, values in baker.GRID.items()})


@pytest.mark.usefixtures("one_setting")
def test_a_model_never_sees_its_own_end():
    pool, final = corpus(models=5)
    changed = final.copy()
    changed[3] = 0.1
    before = baker.leave_one_out(pool, final, epochs=3)
    after = baker.leave_one_out(pool, changed, epochs=3)
    assert repr(before[3]) == repr(after[3])  # NaN (no own deviation) equals NaN there
    assert before[0] != after[0]


@pytest.mark.usefixtures("one_setting")
def test_other_seeds_of_the_same_model_are_left_out_with_it():
    pool, final = corpus(models=5)
    twin = dataclasses.replace(pool[3], seconds=99.0)
    alone = baker.leave_one_out(pool, final, epochs=3)[3]
    again = baker.leave_one_out([*pool, twin], [*final, final[3]], epochs=3)[3]
    assert repr(again) == repr(alone)


def test_predictor_has_the_usual_interface():
    pool, final = corpus(models=12)
    predictor = baker.train(pool, final, epochs=4)
    (short, full) = predictor([dataclasses.replace(pool[0], records=pool[0].records[:3]), pool[1]])
    assert np.isnan(short.mean)
    assert short.flag
    assert repr(full) == repr(predictor(pool, epochs=4)[1])


def test_broken_curves_are_left_out_and_too_few_are_refused():
    pool, final = corpus(models=6)
    final = final.copy()
    final[0] = np.nan
    assert baker.train(pool, final, epochs=3).description.endswith("trained on 5 finished runs")
    with pytest.raises(errors.ConfigError) as error:
        baker.train(pool, final, epochs=9)
    assert error.value.cause == "only 0 finished curves of 9 epochs to learn from"
    assert error.value.remedy == "Give at least 4 curves, or use fewer epochs"
