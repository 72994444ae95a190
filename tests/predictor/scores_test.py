"""One contract over the registry of transferability scores."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor.scores import SCORES
from tests.support.transfer_task import make_task

each = pytest.mark.parametrize("name", sorted(SCORES))
# Those that choose between FᵀF and FFᵀ by the shape of the features.
BY_SMALLER_GRAM_MATRIX = ("hscore", "logme", "transrate")


@each
def test_the_registry_knows_each_by_its_name(name: str):
    assert SCORES[name].name == name
    assert SCORES[name].needs in ("features", "source_probabilities")


@each
def test_easier_tasks_score_higher(name: str):
    score = SCORES[name]
    values = [score(*make_task(score.needs, separation=s)) for s in (0.0, 0.7, 3.0)]
    assert values == sorted(values)
    assert values[0] < values[2]


@each
def test_a_batch_is_the_models_one_by_one(name: str):
    score = SCORES[name]
    inputs = [make_task(score.needs, separation=s)[0] for s in (0.2, 0.8, 2.0)]
    labels = make_task(score.needs)[1]
    batch = score(np.stack(inputs), labels)
    assert batch.shape == (3,)
    np.testing.assert_allclose(batch, [score(x, labels) for x in inputs], rtol=1e-9)
    assert isinstance(score(inputs[0], labels), float)


@each
def test_float32_against_float64(name: str):
    score = SCORES[name]
    x, labels = make_task(score.needs)
    # docs/numerics.md, "transferability scores".
    np.testing.assert_allclose(
        score(x.astype(np.float32), labels), score(x, labels), rtol=1e-4, atol=1e-5
    )
    assert not jax.config.jax_enable_x64


@each
def test_order_of_samples_and_names_of_classes_do_not_matter(name: str):
    score = SCORES[name]
    x, labels = make_task(score.needs)
    order = np.random.default_rng(1).permutation(len(labels))
    if name != "linear_probe":  # its folds go by position
        np.testing.assert_allclose(score(x[order], labels[order]), score(x, labels), rtol=1e-9)
    np.testing.assert_allclose(score(x, 3 - labels), score(x, labels), rtol=1e-6)


@each
def test_a_gap_in_the_labels_changes_nothing(name: str):
    score = SCORES[name]
    x, labels = make_task(score.needs)
    gapped = np.array([0, 2, 5, 1000])[labels]
    assert score(x, gapped) == score(x, labels)
    assert score(x, gapped - 7) == score(x, labels)


@each
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_input_is_an_error(name: str, value: float):
    score = SCORES[name]
    x, labels = make_task(score.needs)
    x[3, 1] = value
    with pytest.raises(errors.DataError) as error:
        score(x, labels)
    assert error.value.cause == "features contain NaN or infinity"
    assert error.value.remedy == "Check the model's weights and preprocessing"


@each
def test_zero_and_constant_features_score_finitely(name: str):
    score = SCORES[name]
    x, labels = make_task(score.needs)
    constant = [np.full_like(x, 1.0 / x.shape[1])]
    if score.needs == "features":
        constant += [np.zeros_like(x), np.full_like(x, 1e4)]
        x[:, 3] = 2.0
        constant.append(x)
    for features in constant:
        for dtype in (np.float32, np.float64):
            assert np.isfinite(score(features.astype(dtype), labels))


@pytest.mark.parametrize(
    ("name", "n", "width"),
    [(name, 20, 60) for name in sorted(SCORES)]
    + [(name, 40, 40) for name in BY_SMALLER_GRAM_MATRIX],
)
def test_fewer_samples_than_features_score_finitely(name: str, n: int, width: int):
    score = SCORES[name]
    x, labels = make_task(score.needs, n=n, width=width)
    assert np.isfinite(score(x.astype(np.float32), labels))


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_logits_are_refused_where_probabilities_are_needed(name: str):
    x, labels = make_task("features")
    with pytest.raises(errors.DataError) as error:
        SCORES[name](x, labels)
    assert error.value.cause == "rows of source_probabilities are not probability distributions"
    assert error.value.remedy == "Give softmax outputs, not logits"
