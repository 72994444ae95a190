"""The figures of a finished run: training to the end, and which classes are taken for which."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ncap_jax.options import Metric
from ncap_jax.predictor.validation_score import score
from ncap_jax.report import drawing, text
from ncap_jax.report.drawing import ACCENT, ACCURACY_AXIS, INK, SERIES, epoch_ticks, line_style

if TYPE_CHECKING:
    from ncap_jax.report.finished import FinishedModel
    from ncap_jax.types import EpochRecord
    from ncap_jax.winner.metrics import ClassificationMetrics

# Classes of the largest matrix that can be read, and characters of a name beside it.
MOST_CELLS, NAME = 16, 14
# The fullest cell: black and white text can be read on it.
OPACITY = 0.45
MISTAKE = SERIES[1]


def accuracy_to_the_end(models: Sequence[FinishedModel], metric: Metric = "accuracy") -> str:
    """The validation score against epoch, the finish apart from the ranking."""
    name = text.metric_name(metric)
    alt = f"Validation {name} of {len(models)} models, from the ranking to the end of training"
    drawn = _Drawn("validation_accuracy", f"validation {name} (%)", alt, ends=ACCURACY_AXIS)
    return _curves(models, lambda record: 100 * score(record, metric), drawn)


def loss_to_the_end(models: Sequence[FinishedModel]) -> str:
    """Validation loss against epoch, the finish apart from the ranking."""
    alt = f"Validation loss of {len(models)} models, from the ranking to the end of training"
    drawn = _Drawn("validation_loss", "validation loss (nats)", alt)
    return _curves(models, lambda record: record.validation_loss, drawn)


class _Drawn(NamedTuple):
    """What the curves show: its name, the label of its axis, the text for those who cannot see it.

    `ends`: of the axis, beyond which nothing lies; None: as far as the values reach.
    """

    name: str
    label: str
    alt: str
    ends: tuple[float, float] | None = None


def _curves(
    models: Sequence[FinishedModel], value: Callable[[EpochRecord], float], drawn: _Drawn
) -> str:
    name = f"finish-{drawn.name}"
    with drawing.figure(name, (4.8, 3.3)) as (figure, axes):
        for position, model in reversed(list(enumerate(models))):
            values = np.array([value(record) for record in model.records])
            _curve(axes, model, np.where(np.isfinite(values), values, np.nan), position)
        last = max((model.records[-1].epoch for model in models), default=0)
        for end in {model.ranked_epochs for model in models}:
            axes.axvline(end, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xticks(epoch_ticks(last))
        axes.set_xlabel("epoch")
        axes.set_ylabel(drawn.label)
        if drawn.ends is not None:
            axes.set_ylim(*np.clip(axes.get_ylim(), *drawn.ends))
        alt = f"{drawn.alt}; the table has the epochs that were kept."
        return drawing.to_svg(figure, name, alt)


def _curve(axes: Any, model: FinishedModel, values: np.ndarray, position: int) -> None:
    """One model: hollow marks in the ranking, none in the finish but on the epoch kept."""
    epochs = np.array([record.epoch for record in model.records])
    style = {**line_style(position)}
    marker = style.pop("marker") or "."
    axes.plot(epochs, values, **style)
    points = {"color": style["color"], "marker": marker, "linestyle": "none"}
    ranked = epochs <= model.ranked_epochs
    axes.plot(epochs[ranked], values[ranked], markerfacecolor="none", **points)
    kept = epochs == model.best_epoch
    axes.plot(epochs[kept], values[kept], markersize=9, **points)


def confusion(metrics: ClassificationMetrics) -> str:
    """The confusion matrix with its counts; empty where there are too many classes to read."""
    names = [text.shortened(each.name, NAME) for each in metrics.classes]
    if len(names) > MOST_CELLS:
        return ""
    side = max(4.8, 1.6 + 0.27 * len(names))
    with drawing.figure("confusion", (side, side)) as (figure, axes):
        for row, counts in enumerate(metrics.confusion):
            for column, count in enumerate(counts):
                if count:
                    _cell(axes, row, column, count, count / metrics.classes[row].support)
        ends = (-0.5, len(names) - 0.5)
        axes.set(xlim=ends, ylim=ends[::-1], xlabel="class given", ylabel="true class")
        axes.set_aspect("equal")
        axes.grid(visible=False)
        # Names from outside are not mathematics.
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        right = sum(counts[row] for row, counts in enumerate(metrics.confusion))
        alt = (
            f"Confusion matrix of {len(names)} classes: {right} of {metrics.count} images on the "
            "diagonal; the tables have the numbers."
        )
        with warnings.catch_warnings():
            # The browser has the characters that the font by which the layout is measured lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            return drawing.to_svg(figure, "confusion", alt)


def _cell(axes: Any, row: int, column: int, count: int, share: float) -> None:
    color = ACCENT if row == column else MISTAKE
    opacity = OPACITY * (0.3 + 0.7 * share)
    axes.fill_between(
        [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=color, alpha=opacity, lw=0
    )
    axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
