"""What the report tells of a run that was finished: the record, and its words and tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ncap_jax.options import Metric
from ncap_jax.predictor.validation_score import score
from ncap_jax.report import text

if TYPE_CHECKING:
    from ncap_jax.types import EpochRecord, Ranking
    from ncap_jax.winner.facts import ModelFacts
    from ncap_jax.winner.metrics import ClassificationMetrics, ClassMetrics, Mistake

# Classes that the table lists; of more, as many with the lowest F1.
MOST_CLASSES, WEAKEST = 30, 15
# Pairs of classes that are named where the confusion matrix would be too large to read.
MOST_PAIRS = 15


@dataclass(frozen=True)
class FinishedModel:
    """One model that was trained to the end.

    Attributes:
        name: of the model.
        rank: in the ranking.
        records: of all its epochs, the ranking's first, epoch 0 included.
        ranked_epochs: how many of them the ranking trained.
        best_epoch: whose weights were kept.
        metric: by which that epoch was chosen.
    """

    name: str
    rank: int | None
    records: tuple[EpochRecord, ...]
    ranked_epochs: int
    best_epoch: int
    metric: Metric = "accuracy"

    @property
    def seconds(self) -> float:
        """Wall time of the epochs of the finish."""
        return sum(r.seconds for r in self.records if r.epoch > self.ranked_epochs)

    @property
    def best(self) -> EpochRecord:
        """The record of the epoch that was kept."""
        return next(record for record in self.records if record.epoch == self.best_epoch)


@dataclass(frozen=True)
class WrongImage:
    """One of the most confidently wrong images.

    Attributes:
        mistake: which it is, and for what it was taken.
        name: that a person finds it by; empty where it has none.
        png: bytes of a small PNG; empty where the image cannot be read.
    """

    mistake: Mistake
    name: str = ""
    png: bytes = b""


@dataclass(frozen=True)
class RankingSummary:
    """A ranking in few words, by which it is told from a later one in the same folder.

    Attributes:
        predictor: the method that ranked.
        epochs: that were asked for.
        models: their names, in order.
        metric: that was predicted.
    """

    predictor: str
    epochs: int
    models: tuple[str, ...]
    metric: Metric = "accuracy"

    @classmethod
    def of(cls, ranking: Ranking) -> RankingSummary:
        """The summary of a ranking."""
        names = tuple(row.name for row in ranking.models)
        config = ranking.config
        return cls(ranking.predictor, config.epochs, names, config.metric)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose first models were trained to the end.

    Attributes:
        facts: of the winner, with its figures.
        models: that were finished, in the order of the ranking.
        wrong: the most confidently wrong images of `part`, the worst first.
        folder: path of the saved model; empty: it was not saved.
        seconds: wall time of the finish, over all its calls; None: not known.
        ranking: that it went on from; None: the one that is shown.
    """

    facts: ModelFacts
    models: tuple[FinishedModel, ...]
    wrong: tuple[WrongImage, ...] = ()
    folder: str = ""
    seconds: float | None = None
    ranking: RankingSummary | None = None

    @property
    def part(self) -> str:
        """The part whose classes and mistakes are shown."""
        return part_shown(self.facts)

    @property
    def metrics(self) -> ClassificationMetrics:
        """The figures on `part`."""
        return self.facts.metrics[self.part]

    @property
    def metric(self) -> Metric:
        """By which epochs and the winner were chosen."""
        return self.models[0].metric if self.models else "accuracy"


def part_shown(facts: ModelFacts) -> str:
    """The test part, or the validation part where one is missing."""
    return "test" if "test" in facts.metrics else "validation"


def answer(facts: ModelFacts) -> str:
    """What a user wants to know of the winner, in a sentence."""
    part = part_shown(facts)
    if part not in facts.metrics:
        return f"Use {text.visible(facts.name)}."
    figures = facts.metrics[part]
    low, high = figures.accuracy_interval
    return (
        f"Use {text.visible(facts.name)}: {text.percent(figures.accuracy)} of {figures.count:,} "
        f"{part} images right (95 % interval {100 * low:.1f} to {100 * high:.1f} %)."
    )


def caution(facts: ModelFacts) -> str:
    """How far the figures can be trusted."""
    if "test" in facts.metrics:
        leaks, count = facts.leaks, facts.metrics["test"].count
        copies = (
            f" But {leaks:,} of its {count:,} images {'is' if leaks == 1 else 'are'} also in the "
            "training or the validation part, so its figures are too good as well."
        )
        return (
            "The validation part chose the epochs and the winner, so its figures are a little too "
            f"good. The test part was opened once, after that.{copies if leaks else ''}"
        )
    return (
        "The data set has no test part. The validation part chose the epochs and the winner, so "
        "its figures are a little too good. A folder test/ beside train/, or --test_fraction=0.2, "
        "gives a test part to the next run."
    )


def newer(then: RankingSummary | None, ranking: Ranking) -> str:
    """What a ranking has become since its first models were finished, in a sentence.

    Args:
        then: the ranking that the finish went on from.
        ranking: that is shown.

    Returns:
        The sentence; empty where they are the same.
    """
    now = RankingSummary.of(ranking)
    if then is None or then == now:
        return ""
    added = [name for name in now.models if name not in then.models]
    removed = [name for name in then.models if name not in now.models]
    changes = [
        f"{now.epochs} instead of {then.epochs} epochs" if now.epochs != then.epochs else "",
        f"ranked by {now.predictor} instead of {then.predictor}"
        if now.predictor != then.predictor
        else "",
        f"{text.metric_name(now.metric)} instead of {text.metric_name(then.metric)}"
        if now.metric != then.metric
        else "",
        f"with {text.listed(text.some(added))}" if added else "",
        f"without {text.listed(text.some(removed))}" if removed else "",
    ]
    told = ", ".join(filter(None, changes)) or "another order"
    return f"The ranking below is newer than this model: {told}."


class Uses(NamedTuple):
    """The two lines that use a saved model."""

    python: str
    shell: str


def uses(folder: str) -> Uses:
    """How a saved model labels the pictures in a folder.

    Args:
        folder: path of the model.
    """
    command = f"python -m ncap_jax predict {shlex.quote(folder)} new/"
    return Uses(f"ncap.load({folder!r}).predict('new/')", text.shell(command))


def weakest_classes(metrics: ClassificationMetrics) -> tuple[ClassMetrics, ...]:
    """The classes of a table: all in label order, or of too many those with the lowest F1."""
    classes = metrics.classes
    if len(classes) <= MOST_CLASSES:
        return classes
    occurring = [each for each in classes if each.support]
    return tuple(sorted(occurring, key=lambda each: each.f1 or 0.0)[:WEAKEST])


class Confused(NamedTuple):
    """A class whose images were taken for those of another.

    Attributes:
        true: name of the class.
        predicted: name of the other.
        images: number of such images.
        share: of the images of the class.
    """

    true: str
    predicted: str
    images: int
    share: float


def most_confused(metrics: ClassificationMetrics) -> tuple[Confused, ...]:
    """The pairs of classes with the most mistakes, at most `MOST_PAIRS`; the most first."""
    names = [each.name for each in metrics.classes]
    pairs = [
        (count, row, column)
        for row, counts in enumerate(metrics.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
    return tuple(
        Confused(names[row], names[column], count, count / metrics.classes[row].support)
        for count, row, column in pairs[:MOST_PAIRS]
    )


def scaling(facts: ModelFacts) -> str:
    """What the temperature does, in a sentence; empty where nothing is scaled."""
    if facts.temperature is None:
        return ""
    return (
        "Calibration error: how far the stated probabilities are from the share that is right, "
        f"before and after they are scaled (temperature {facts.temperature:.2f}, fitted on the "
        "validation part)."
    )


def summary_rows(facts: ModelFacts) -> list[list[str]]:
    """The cells of the table of parts, under `SUMMARY`."""
    return [
        [
            part,
            f"{figures.count:,}",
            text.percent(figures.accuracy),
            "{:.1f} to {:.1f} %".format(*(100 * bound for bound in figures.accuracy_interval)),
            text.percent(figures.balanced_accuracy),
            f"{figures.macro_f1:.3f}",
            "–" if figures.uncalibrated_error is None else text.percent(figures.uncalibrated_error),
            text.percent(figures.calibration_error),
        ]
        for part, figures in sorted(facts.metrics.items())
    ]


SUMMARY = (
    "part",
    "images",
    "accuracy",
    "95 % interval",
    "balanced accuracy",
    "macro F1",
    "calibration error before",
    "and after scaling",
)


def finished_rows(models: Sequence[FinishedModel]) -> list[list[str]]:
    """The cells of the table of finished models, under `finished_header`."""
    return [
        [
            each.name,
            "–" if each.rank is None else str(each.rank),
            f"{each.ranked_epochs} + {each.records[-1].epoch - each.ranked_epochs}",
            str(each.best_epoch),
            text.percent(score(each.best, each.metric)),
            text.duration(each.seconds),
        ]
        for each in models
    ]


def finished_header(metric: Metric = "accuracy") -> tuple[str, ...]:
    """The columns of the table of finished models.

    Args:
        metric: by which their epochs were chosen.
    """
    return (
        "model",
        "rank",
        "epochs: ranking + finish",
        "best epoch",
        f"validation {text.metric_name(metric)}",
        "time of the finish",
    )
