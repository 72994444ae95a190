"""The test figures, against sums written out and against what they must refuse."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.winner.metrics import (
    ClassificationMetrics,
    ClassMetrics,
    Mistake,
    calibration_error,
    classification_metrics,
    wilson_interval,
)

NAMES = ("cat", "dog", "owl")
# Five images: cat and dog right, a dog called cat, a cat called dog (surest), an owl right.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]]
)
LABELS = np.array([0, 1, 1, 0, 2])


@pytest.fixture(scope="module")
def figures() -> ClassificationMetrics:
    return classification_metrics(PROBABILITIES, LABELS, NAMES)


def test_the_figures_of_five_images(figures):
    assert figures.count == 5
    assert figures.accuracy == 0.6
    assert figures.balanced_accuracy == pytest.approx((1 / 2 + 1 / 2 + 1) / 3, abs=1e-12)
    assert figures.macro_f1 == pytest.approx((1 / 2 + 1 / 2 + 1) / 3, abs=1e-12)
    assert figures.confusion == ((1, 1, 0), (1, 1, 0), (0, 0, 1))
    assert figures.classes == (
        ClassMetrics("cat", 0.5, 0.5, 0.5, 2),
        ClassMetrics("dog", 0.5, 0.5, 0.5, 2),
        ClassMetrics("owl", 1.0, 1.0, 1.0, 1),
    )
    own = [0.8, 0.6, 0.4, 0.1, 0.6]
    assert figures.log_loss == pytest.approx(-np.mean(np.log(own)), abs=1e-12)
    assert figures.mistakes == (Mistake(3, "cat", "dog", 0.9), Mistake(2, "dog", "cat", 0.5))
    assert figures.uncalibrated_error is None
    assert str(figures) == "60.00 % of 5 images right (95 % interval 23.07 to 88.24 %)"


def test_wilson_interval_against_its_formula():
    z = 1.959963984540054
    for right, count in ((0, 7), (7, 7), (3, 5), (950, 1000)):
        share, square = right / count, z * z / count
        half = z * math.sqrt(share * (1 - share) / count + square / (4 * count))
        expected = [(share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1)]
        assert wilson_interval(right, count) == pytest.approx(expected, abs=1e-12)
    assert wilson_interval(7, 7)[1] == 1
    assert wilson_interval(0, 7)[0] == 0


def test_calibration_error_against_a_loop():
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(4, 0.3), 500)
    labels = draw.integers(0, 4, 500)
    confidence, given = probabilities.max(axis=1), probabilities.argmax(axis=1)
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = np.mean(given[inside] == labels[inside]) - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_a_sure_and_right_model_is_calibrated():
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    assert calibration_error(np.eye(3), np.array([1, 2, 0])) == 1


def test_classes_that_the_part_lacks_do_not_count_in_the_means():
    figures = classification_metrics(PROBABILITIES[:2], LABELS[:2], NAMES)
    assert (figures.accuracy, figures.balanced_accuracy, figures.macro_f1) == (1, 1, 1)
    assert figures.classes[2] == ClassMetrics("owl", None, None, None, 0)
    # An owl that is seen where there is none is a mistake all the same.
    called_owl = classification_metrics(np.eye(3)[[0, 1, 2]], np.array([0, 1, 1]), NAMES)
    assert called_owl.classes[2] == ClassMetrics("owl", 0.0, None, 0.0, 0)
    assert called_owl.balanced_accuracy == pytest.approx(0.75, abs=1e-12)
    assert called_owl.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-12)


def test_ten_mistakes_are_named_the_surest_first_and_ties_in_order():
    probabilities = np.tile([0.3, 0.7], (12, 1))
    probabilities[7] = [0.1, 0.9]
    figures = classification_metrics(probabilities, np.zeros(12, int), ("a", "b"))
    assert [m.index for m in figures.mistakes] == [7, 0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_the_error_before_scaling_is_kept():
    sure = np.eye(3)[[0, 1, 0, 1, 2]]
    figures = classification_metrics(PROBABILITIES, LABELS, NAMES, uncalibrated=sure)
    assert figures.uncalibrated_error == pytest.approx(0.4, abs=1e-12)
    assert figures.calibration_error == calibration_error(PROBABILITIES, LABELS)


def test_json_and_back(figures):
    lacking = classification_metrics(PROBABILITIES[:2], LABELS[:2], NAMES)
    for each in (figures, lacking):
        text = json.dumps(each.to_json(), allow_nan=False)
        assert ClassificationMetrics.from_json(json.loads(text)) == each


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"count": 6}, "classes"),
        ({"count": 0}, "count"),
        ({"count": 10**400}, "count"),
        ({"confusion": [[1, 1], [1, 1]]}, "confusion"),
        ({"confusion": [[2, 0, 0], [2], [1]]}, "confusion"),
        ({"confusion": [[], [], []]}, "confusion"),
        ({"confusion": []}, "confusion"),
        ({"classes": []}, "classes"),
        ({"confusion": [[3, -1, 0], [1, 1, 0], [0, 0, 1]]}, "confusion"),
        ({"confusion": [[2, 0, 0], [1, 1, 0], [0, 0, 1]]}, "accuracy"),
        ({"accuracy": 0.9}, "accuracy"),
        ({"macro_f1": 1.5}, "accuracy"),
        ({"accuracy_interval": [0.7, 0.8]}, "accuracy_interval"),
        ({"mistakes": [{"index": 5, "true": "cat", "predicted": "dog", "probability": 1.0}]}, ""),
        ({"mistakes": [{"index": 0, "true": "cat", "predicted": "bat", "probability": 1.0}]}, ""),
    ],
)
def test_figures_that_contradict_each_other_are_refused(figures, change, field):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        ClassificationMetrics.from_json({**figures.to_json(), **change}, "test")
    assert str(refused.value) == f"test.{field or 'mistakes'} contradicts the other figures"


def test_shares_beyond_the_whole_are_refused(figures):
    classes = [{**each, "recall": 1e308} for each in figures.to_json()["classes"]]
    with pytest.raises(ValueError, match=r"^test\.classes contradicts the other figures$"):
        ClassificationMetrics.from_json({**figures.to_json(), "classes": classes}, "test")


def test_beyond_a_thousand_classes_there_is_no_confusion_matrix():
    """What is left still has to fit together."""
    names = tuple(f"class {number}" for number in range(1001))
    labels = np.arange(0, 1000, 50)
    given = np.where(labels < 500, labels, labels + 1)
    shares = np.full((len(labels), len(names)), 1e-6)
    shares[np.arange(len(labels)), given] = 1 - 1e-6 * 1000
    few = classification_metrics(shares[:, :1000], labels, names[:1000])
    assert len(few.confusion) == 1000
    many = classification_metrics(shares, labels, names)
    assert (many.accuracy, many.confusion) == (few.accuracy, ())
    content = json.loads(json.dumps(many.to_json()))
    assert len(json.dumps(content)) < 100 * len(names)
    assert ClassificationMetrics.from_json(content) == many
    for change, field in (({"accuracy": 0.4}, "accuracy"), ({"confusion": [[1]]}, "confusion")):
        with pytest.raises(ValueError, match=rf"^metrics\.{field} contradicts"):
            ClassificationMetrics.from_json({**content, **change})


def test_a_damaged_field_is_named(figures):
    with pytest.raises(ValueError, match=r"^metrics\.accuracy is None, not a finite number$"):
        ClassificationMetrics.from_json({**figures.to_json(), "accuracy": None})


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (
            PROBABILITIES[:, :2],
            LABELS,
            "probabilities have shape (5, 2). "
            "Give (n, 3): one row for each image, one column for each class.",
        ),
        (
            PROBABILITIES[:0],
            LABELS[:0],
            "probabilities have shape (0, 3). "
            "Give (n, 3): one row for each image, one column for each class.",
        ),
        (
            PROBABILITIES * 2,
            LABELS,
            "some rows are not probabilities. Apply softmax to the model's logits first.",
        ),
        (
            np.full((5, 3), np.nan),
            LABELS,
            "some rows are not probabilities. Apply softmax to the model's logits first.",
        ),
        (
            PROBABILITIES,
            LABELS[:4],
            "labels have shape (4,) and type int64. "
            "Give 5 whole numbers, one for each row of the probabilities.",
        ),
        (PROBABILITIES, LABELS + 1, "labels contain 3. Give class numbers from 0 to 2."),
        (PROBABILITIES, LABELS - 1, "labels contain -1. Give class numbers from 0 to 2."),
    ],
)
def test_what_cannot_be_evaluated_is_refused(probabilities, labels, message):
    with pytest.raises(errors.DataError) as refused:
        classification_metrics(probabilities, labels, NAMES)
    assert str(refused.value) == message
