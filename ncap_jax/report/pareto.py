"""Score against the cost of use: which models nobody beats at their price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ncap_jax.report import drawing, inference, text
from ncap_jax.report.drawing import INK, line_style
from ncap_jax.types import RankedModel, Ranking


class Point(NamedTuple):
    """One model: its place in the ranking from 0, its cost and its predicted score."""

    position: int
    name: str
    cost: float
    score: float


class Axis(NamedTuple):
    """A cost against which scores are drawn.

    Attributes:
        name: of the figure.
        label: of its axis.
        words: what it is, in a sentence.
    """

    name: str
    label: str
    words: str


PARAMETERS = Axis("parameters", "parameters", "number of parameters")
FLOPS = Axis("flops", "FLOPs per image", "operations for one image")
LATENCY = Axis("latency", "latency of one image (ms)", "time to label one image")


def points(ranking: Ranking, axis: Axis) -> list[Point]:
    """The models whose cost and prediction are known, in the order of the ranking."""
    ranked = [row for row in ranking.models if row.rank is not None]
    found = (
        Point(place, row.name, _cost(row, axis), row.predicted_accuracy)
        for place, row in enumerate(ranked)
    )
    return [p for p in found if p.cost > 0 and math.isfinite(p.cost) and math.isfinite(p.score)]


def _cost(row: RankedModel, axis: Axis) -> float:
    if axis is LATENCY:
        return inference.latency(row)
    value = row.cost.parameters if axis is PARAMETERS else row.cost.flops
    return math.nan if value is None else float(value)


def front(found: Sequence[Point]) -> list[Point]:
    """The points that no other one beats: by a higher score at no higher cost, or a lower cost.

    Returns:
        By rising cost. Of equal points the first in the ranking.
    """
    best: list[Point] = []
    for point in sorted(found, key=lambda p: (p.cost, -p.score, p.position)):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best


def axes_of(ranking: Ranking) -> list[Axis]:
    """The costs that are drawn: parameters, and latency where it was measured, else FLOPs."""
    second = LATENCY if inference.is_measured(ranking) else FLOPS
    return [axis for axis in (PARAMETERS, second) if len(points(ranking, axis)) > 1]


def figure(ranking: Ranking, axis: Axis) -> str:
    """The predicted score against a cost; the front as steps, its models by their ranks."""
    found = points(ranking, axis)
    best, metric = front(found), text.metric_name(ranking.config.metric)
    name = f"pareto-{axis.name}"
    with drawing.figure(name, (4.8, 3.3)) as (figure, axes):
        costs = [p.cost for p in best] + [max(p.cost for p in found)]
        scores = [100 * p.score for p in best] + [100 * best[-1].score]
        axes.plot(costs, scores, color=INK, linewidth=0.8, linestyle=":", drawstyle="steps-post")
        for point in reversed(found):
            style = line_style(point.position)
            marker, color = style["marker"] or "o", style["color"]
            axes.plot(point.cost, 100 * point.score, marker, color=color, markersize=6)
        for point in best:
            place = (point.cost, 100 * point.score)
            offset = {"xytext": (-5, 4), "textcoords": "offset points", "ha": "right"}
            axes.annotate(str(point.position + 1), place, **offset)
        axes.set_xscale("log")
        _ticks(axes.xaxis, [p.cost for p in found])
        axes.margins(x=0.08, y=0.12)
        axes.set_xlabel(axis.label)
        axes.set_ylabel(f"predicted {metric} (%)")
        names = text.listed([text.visible(p.name) for p in best])
        alt = (
            f"Predicted {metric} of {len(found)} models against the {axis.words}. Not beaten at "
            f"their price: {names}. The table has the numbers."
        )
        return drawing.to_svg(figure, name, alt)


def _ticks(axis: Any, costs: Sequence[float]) -> None:
    """Few round numbers along a logarithmic axis, the more the shorter it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    reach = max(costs) / min(costs)
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if reach < 6 else (1, 2, 5) if reach < 300 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: inference.round_number(value)))
