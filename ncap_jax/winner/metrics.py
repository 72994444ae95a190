"""How well a model classifies images that it has not seen: figures with their uncertainty.

For n images of K classes, with p_i the probabilities of image i, y_i its class, ŷ_i = argmax p_i:

    accuracy a = mean_i [ŷ_i = y_i], with Wilson's 95 % interval                            (T1)
    balanced accuracy = mean of the classes' recalls
    macro F1 = mean of the classes' F1
    log loss = −mean_i log p_i(y_i), in nats
    calibration error = Σ_b (n_b / n) |a_b − c_b|                                           (T2)

In (T2) the images are sorted into 15 bins of equal width by their confidence max p_i; a_b is the
accuracy in bin b and c_b the mean confidence (Guo et al. 2017). Classes that the images lack do
not count in the means, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.files import strict
from ncap_jax.winner.strict_json import read_record

CONFIDENCE = 0.95
BINS = 15
WORST = 10  # confidently wrong images that are named
# Classes up to which there is a confusion matrix: it grows with their square, and model.json with
# it, which is read whenever a model is loaded.
MOST_CONFUSED = 1000
# Images of a part: what lies above is not counted, but made up.
MAX_COUNT = 2**53


@dataclass(frozen=True)
class ClassMetrics:
    """One class.

    Attributes:
        name: of the class.
        precision: share of the images given this class that are of it; None: it was never given.
        recall: share of the images of this class that were given it; None: there are none.
        f1: harmonic mean of the two; None: neither is defined.
        support: number of images of this class.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Mistake:
    """One image that was classified wrongly.

    Attributes:
        index: of the image in its part.
        true: name of its class.
        predicted: name of the class that it was given.
        probability: of that class.
    """

    index: int
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """The figures of one model on one part; shares are in [0, 1].

    Attributes:
        count: number of images.
        accuracy: share of images classified right.
        accuracy_interval: its 95 % interval, (T1).
        balanced_accuracy: mean of the recalls.
        macro_f1: mean of the F1 of the classes that occur, in truth or answer.
        log_loss: mean of −log of the true class's probability, in nats.
        calibration_error: (T2).
        uncalibrated_error: (T2) of the probabilities before temperature scaling; None: they were
            not scaled.
        classes: one for each class, in label order.
        confusion: (K, K) counts; rows are the true class, columns the class given. Empty where
            there are more than 1,000 classes.
        mistakes: the most confidently wrong images, at most ten, the worst first.
    """

    count: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    calibration_error: float
    uncalibrated_error: float | None
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's types."""
        return strict(self)

    @classmethod
    def from_json(cls, value: Any, name: str = "metrics") -> ClassificationMetrics:
        """The record of which `to_json` made a value.

        Args:
            value: from `json.loads`.
            name: of the value in its file, for messages.

        Raises:
            ValueError: a field is missing, unknown or of another type, or the fields contradict
                each other; the field is named.
        """
        return checked(read_record(cls, value, name), name)

    def __str__(self) -> str:
        low, high = (100 * bound for bound in self.accuracy_interval)
        return (
            f"{100 * self.accuracy:.2f} % of {self.count:,} images right "
            f"(95 % interval {low:.2f} to {high:.2f} %)"
        )


def classification_metrics(
    probabilities: Any,
    labels: Any,
    class_names: Sequence[str],
    *,
    uncalibrated: Any = None,
) -> ClassificationMetrics:
    """The figures of a model's probabilities.

    Args:
        probabilities: (n, K) floats, each row in [0, 1] with the sum 1.
        labels: (n,) integers 0..K-1.
        class_names: K names in label order.
        uncalibrated: (n, K) probabilities of the same images before temperature scaling, or None.

    Raises:
        DataError: no images, other shapes, labels out of range, or rows that are no
            probabilities.
    """
    shares = _probabilities(probabilities, len(class_names))
    truth = _labels(labels, shares)
    given = shares.argmax(axis=1)
    right = int(np.count_nonzero(given == truth))
    return ClassificationMetrics(
        count=len(truth),
        accuracy=right / len(truth),
        accuracy_interval=wilson_interval(right, len(truth)),
        **_means(truth, given),
        log_loss=_log_loss(shares, truth),
        calibration_error=calibration_error(shares, truth),
        uncalibrated_error=None
        if uncalibrated is None
        else calibration_error(_probabilities(uncalibrated, len(class_names)), truth),
        classes=_classes(truth, given, class_names),
        confusion=_confusion(truth, given, len(class_names)),
        mistakes=_mistakes(shares, truth, given, class_names),
    )


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share, (T1): low and high.

    Args:
        right: number of successes, 0..count.
        count: number of trials, at least 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error (T2), in [0, 1].

    Args:
        probabilities: (n, K), each row with the sum 1.
        labels: (n,) integers 0..K-1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    surplus = (probabilities.argmax(axis=1) == labels) - confidence
    # Bin b holds ((b − 1) / 15, b / 15].
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, weights=surplus, minlength=BINS)).sum() / len(labels))


def checked(metrics: ClassificationMetrics, name: str) -> ClassificationMetrics:
    """Figures that were read from a file, refused where they cannot belong together.

    Raises:
        ValueError: names the field.
    """
    for field, fits in _judgements(metrics):
        if not fits:
            raise ValueError(f"{name}.{field} contradicts the other figures")
    return metrics


def _judgements(metrics: ClassificationMetrics) -> Iterator[tuple[str, bool]]:
    """Fields and whether they fit. Each relies on those before it: stop at the first misfit."""
    count, classes, names = metrics.count, metrics.classes, {c.name for c in metrics.classes}
    yield "count", 1 <= count <= MAX_COUNT
    supports = [each.support for each in classes]
    recalls = [0.0 if each.recall is None else each.recall for each in classes]
    within = min(supports, default=0) >= 0 and all(0 <= recall <= 1 for recall in recalls)
    yield "classes", within and sum(supports) == count
    yield "confusion", _fits_classes(metrics.confusion, supports)
    shares = (metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1)
    yield "accuracy", all(0 <= share <= 1 for share in shares)
    right = [round(recall * support) for recall, support in zip(recalls, supports)]
    if metrics.confusion:
        right = [row[k] for k, row in enumerate(metrics.confusion)]
    yield "accuracy", sum(right) == round(metrics.accuracy * count)
    low, high = metrics.accuracy_interval
    yield "accuracy_interval", 0 <= low <= metrics.accuracy <= high <= 1
    for each in metrics.mistakes:
        known = 0 <= each.index < count and {each.true, each.predicted} <= names
        yield "mistakes", known and 0 <= each.probability <= 1


def _fits_classes(confusion: tuple[tuple[int, ...], ...], supports: list[int]) -> bool:
    """Whether a confusion matrix has the number of images that every class has."""
    width = len(supports)
    if width > MOST_CONFUSED:
        return not confusion
    square = [len(row) for row in confusion] == [width] * width
    counts = square and min(map(min, confusion), default=0) >= 0
    return counts and [sum(row) for row in confusion] == supports


def _probabilities(values: Any, classes: int) -> np.ndarray:
    """(n, K) float64, rows that sum to 1 up to the rounding of half precision."""
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[1] != classes or len(array) == 0:
        raise errors.DataError(
            f"probabilities have shape {array.shape}",
            f"Give (n, {classes}): one row for each image, one column for each class",
        )
    # NaN fails both comparisons.
    if not (np.all(array >= 0) and np.all(np.abs(array.sum(axis=1) - 1) < 1e-2)):
        raise errors.DataError(
            "some rows are not probabilities", "Apply softmax to the model's logits first"
        )
    return array


def _labels(values: Any, probabilities: np.ndarray) -> np.ndarray:
    labels = np.asarray(values)
    count, classes = probabilities.shape
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise errors.DataError(
            f"labels have shape {labels.shape} and type {labels.dtype}",
            f"Give {count} whole numbers, one for each row of the probabilities",
        )
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise errors.DataError(
            f"labels contain {wrong}", f"Give class numbers from 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def _means(truth: np.ndarray, given: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score, recall_score

    occurring = np.unique(truth)
    recalls = recall_score(truth, given, labels=occurring, average="macro", zero_division=0)
    return {
        "balanced_accuracy": float(recalls),
        "macro_f1": float(f1_score(truth, given, average="macro", zero_division=0)),
    }


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import log_loss

    whole = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(log_loss(labels, whole, labels=np.arange(probabilities.shape[1])))


def _classes(
    truth: np.ndarray, given: np.ndarray, names: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        truth, given, labels=np.arange(len(names)), zero_division=np.nan
    )
    return tuple(
        ClassMetrics(str(name), _defined(precision), _defined(recall), _defined(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns)
    )


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _confusion(truth: np.ndarray, given: np.ndarray, classes: int) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    if classes > MOST_CONFUSED:
        return ()
    counts = confusion_matrix(truth, given, labels=np.arange(classes))
    return tuple(tuple(row) for row in counts.tolist())


def _mistakes(
    shares: np.ndarray, truth: np.ndarray, given: np.ndarray, names: Sequence[str]
) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(given != truth)
    confidence = shares[wrong, given[wrong]]
    worst = wrong[np.argsort(-confidence, kind="stable")][:WORST]
    return tuple(
        Mistake(int(i), str(names[truth[i]]), str(names[given[i]]), float(shares[i, given[i]]))
        for i in worst
    )
