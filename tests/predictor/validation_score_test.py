"""The validation score against scikit-learn, and what it is worth where images are few."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ncap_jax import errors
from ncap_jax.options import METRICS
from ncap_jax.predictor.validation_score import (
    as_scored,
    constant_answer,
    counted_images,
    difference_error,
    effective_images,
    of_counts,
    score,
)
from ncap_jax.types import ClassCounts
from tests.support.pool import counted, make_pool


def counts(truth: np.ndarray, answers: np.ndarray, classes: int) -> ClassCounts:
    """The counts of labels (n,) and answers (probes, n), written out."""
    everything = range(classes)
    return ClassCounts(
        tuple(int(np.sum(truth == k)) for k in everything),
        tuple(tuple(int(np.sum((row == k) & (truth == k))) for k in everything) for row in answers),
        tuple(tuple(int(np.sum(row == k)) for k in everything) for row in answers),
    )


def by_sklearn(truth: np.ndarray, answers: np.ndarray, metric: str) -> float:
    functions = {
        "accuracy": sklearn_metrics.accuracy_score,
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
        "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="macro", zero_division=0),
    }
    with warnings.catch_warnings():
        # A class that is answered though no image is of it: left out of the balanced accuracy.
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(np.mean([functions[metric](truth, row) for row in answers]))


@st.composite
def answered(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and answers of few or many classes, of which some do not occur."""
    classes = draw(st.integers(1, 6))
    size, probes = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    label = st.integers(0, classes - 1)
    truth = draw(st.lists(label, min_size=size, max_size=size))
    rows = st.lists(label, min_size=size, max_size=size)
    answers = draw(st.lists(rows, min_size=probes, max_size=probes))
    return np.array(truth), np.array(answers), classes


@settings(max_examples=40, deadline=None)
@given(answered())
def test_scores_are_those_of_scikit_learn(case):
    truth, answers, classes = case
    for metric in METRICS:
        found = of_counts(counts(truth, answers, classes), metric)
        assert found == pytest.approx(by_sklearn(truth, answers, metric), abs=1e-12)


def test_a_class_without_validation_images():
    """It does not count, unless it is answered: then with an F1 of 0."""
    truth = np.array([0, 0, 1, 1])
    never = counts(truth, np.array([[0, 0, 1, 0]]), 3)
    answered = counts(truth, np.array([[0, 0, 1, 2]]), 3)
    assert of_counts(never, "balanced_accuracy") == of_counts(answered, "balanced_accuracy") == 0.75
    assert of_counts(never, "macro_f1") == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert of_counts(answered, "macro_f1") == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("metric", METRICS)
def test_no_images_no_score(metric):
    assert math.isnan(of_counts(ClassCounts((0, 0), ((0, 0),), ((0, 0),)), metric))


def test_accuracy_is_what_was_recorded():
    trajectory = make_pool(1)[0]  # without counts
    assert score(trajectory.records[-1], "accuracy") == trajectory.records[-1].validation_accuracy
    assert as_scored([trajectory], "accuracy") == (trajectory,)
    assert counted_images([trajectory]) == ()


def test_trajectories_hold_the_score_where_predictors_look():
    trajectory = counted(make_pool(1)[0], (900, 100), rare=0.2)
    (scored,) = as_scored([trajectory], "balanced_accuracy")
    found = scored.series("validation_accuracy")
    np.testing.assert_allclose(found, [score(r, "balanced_accuracy") for r in trajectory.records])
    assert np.all(found < trajectory.series("validation_accuracy"))
    for before, after in zip(trajectory.records, scored.records, strict=True):
        accuracy = before.validation_accuracy
        assert dataclasses.replace(after, validation_accuracy=accuracy) == before
    assert counted_images([make_pool(1)[0], trajectory]) == (900, 100)


def test_without_counts_another_metric_is_refused():
    trajectory = make_pool(1)[0]
    with pytest.raises(errors.DataError) as error:
        as_scored([trajectory], "macro_f1")
    assert error.value.cause == (
        "model_0: epoch 0 was recorded without the answers by class that metric='macro_f1' is "
        "computed from"
    )
    assert error.value.remedy == "Use metric='accuracy', or rank again in another folder"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any))
def test_classes_that_count_alike_are_worth_fewer_images(images):
    """The variance of a balanced accuracy, whose classes have one recall, is that of m images."""
    occurring = np.array([n for n in images if n])
    share = 0.3
    variance = np.mean(share * (1 - share) / occurring) / len(occurring)
    found = effective_images(images, "balanced_accuracy")
    assert found == math.floor(share * (1 - share) / variance + 1e-9)
    assert found <= sum(images) == effective_images(images, "accuracy")
    if len({*occurring.tolist()}) == 1:
        assert found == sum(images)


@pytest.mark.parametrize("metric", METRICS)
def test_always_the_same_answer(metric):
    truth = np.repeat([0, 1, 3], [60, 30, 10])
    same = counts(truth, np.zeros((1, 100), int), 4)
    found = constant_answer(same.images, metric, share=0.6)
    assert found.score == pytest.approx(of_counts(same, metric))
    worth = effective_images(same.images, metric)
    assert found.error == pytest.approx(math.sqrt(found.score * (1 - found.score) / worth))


@pytest.mark.parametrize(("one", "other", "images"), [(0.7, 0.6, 50), (1.0, 0.4, 20)])
def test_the_error_of_a_difference_is_that_of_drawn_shares(one, other, images):
    """Equation (S5), up to Laplace's rule, which moves a share by less than 1 / images."""
    rng = np.random.default_rng(0)
    drawn = [rng.binomial(images, share, 20_000) / images for share in (one, other)]
    found = difference_error(one, other, images)
    assert found == difference_error(other, one, images)
    assert found == pytest.approx(np.std(drawn[0] - drawn[1]), rel=0.12)


def test_all_answers_right_is_not_certain():
    assert difference_error(1.0, 1.0, 10) > 0.1
    assert difference_error(1.0, 1.0, 10_000) < 0.001
