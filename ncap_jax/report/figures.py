"""The report's figures as inline SVG that follow the page's light or dark colours.

Matplotlib draws with placeholder colours; each is replaced by a CSS variable that the page
defines once for light, dark and print. A model is told by line style and marker as well as by
colour. Figures are `Figure` objects: no pyplot, no global backend, nothing to close.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ncap_jax.predictor import PREDICTORS
from ncap_jax.predictor.ridge import fit_line, points
from ncap_jax.report import text
from ncap_jax.types import STRENGTHS, RankedModel, Ranking, Strength, Trajectory

# Placeholder -> CSS variable. The hues are defined in report.css.
INK, GRID, OTHER = "#c0ffe0", "#c0ffe1", "#c0ffe2"
SERIES = tuple(f"#c0ff0{i}" for i in range(1, 8))
_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", OTHER: "var(--other)"} | {
    token: f"var(--s{i})" for i, token in enumerate(SERIES, start=1)
}
# SVG dash arrays; "" is solid. Used by the figures and by the legend in the page.
DASHES = ("", "6 2", "2 2", "8 2 2 2", "4 1", "1 2", "6 2 1 2 1 2")
# Ends of an axis of accuracies in percent: room for a marker at 0 and at 100, not more.
ACCURACY_AXIS = (-4.0, 104.0)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def _figure(name: str, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Any, name: str, alt: str) -> str:
    """The figure as <svg>, in the colours of the page, with alternative text and unique ids."""
    from markupsafe import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#c0ff[0-9a-f]{2}", lambda match: _VARIABLES[match.group()], svg)
    # Several figures share one page: ids must not collide.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 var(--font)", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text.visible(alt))}" ', 1)


def _dash(pattern: str) -> Any:
    return (0, tuple(float(part) for part in pattern.split())) if pattern else "solid"


def line_style(position: int) -> dict[str, Any]:
    """Colour, line style and marker of the model at that position of the ranking, from 0.

    The first seven have their own; the others share a thin grey line.
    """
    if position >= len(SERIES):
        return {"color": OTHER, "linestyle": "solid", "linewidth": 0.9, "marker": ""}
    return {
        "color": SERIES[position],
        "linestyle": _dash(DASHES[position]),
        "marker": MARKERS[position],
    }


def figure_strength(ranking: Ranking) -> Strength | None:
    """The beta_eff that the figures show: the predictor's, else absolute, else any recorded."""
    recorded = {s for t in ranking.trajectories for r in t.records for s in r.beta_eff}
    chosen = PREDICTORS.get(ranking.predictor)
    wanted: list[Strength] = ["absolute", ranking.strength, *STRENGTHS]
    if chosen is not None and chosen.strength is not None:
        wanted.insert(0, chosen.strength)
    return next((strength for strength in wanted if strength in recorded), None)


def in_rank_order(ranking: Ranking) -> list[tuple[RankedModel, Trajectory]]:
    """Rows with their trajectories, in rank order; rows without records are left out."""
    by_name = {t.model: t for t in ranking.trajectories}
    return [
        (row, by_name[row.name])
        for row in ranking.models
        if row.name in by_name and by_name[row.name].records
    ]


def accuracy_curves(ranking: Ranking) -> str:
    """Validation accuracy against epoch, with the predictions and their two-sigma bars."""
    pairs = in_rank_order(ranking)
    name = "accuracy"
    with _figure(name, (4.8, 3.3)) as (figure, axes):
        last = max((t.epochs for _, t in pairs), default=0)
        # Drawn last to first, so that the best lie on top.
        for position, (row, trajectory) in reversed(list(enumerate(pairs))):
            accuracy = trajectory.series("validation_accuracy")
            axes.plot(np.arange(accuracy.size), 100 * accuracy, **line_style(position))
            if math.isfinite(row.predicted_accuracy):
                # Spread out sideways, so that bars do not hide one another.
                x = last + 0.7 + 0.6 * position / max(len(pairs) - 1, 1)
                _prediction_bar(axes, x, row, line_style(position))
        ticks = _epoch_ticks(last)
        axes.set_xticks([*ticks, last + 1], [*map(str, ticks), "pred."])
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy (%)")
        # A wild extrapolation must not flatten the curves that were measured.
        axes.set_ylim(*np.clip(axes.get_ylim(), *ACCURACY_AXIS))
        alt = (
            f"Validation accuracy of {len(pairs)} models over {last} epochs, with predicted "
            "accuracy and two standard deviations at the right; the table has the numbers."
        )
        return _svg(figure, name, alt)


def _prediction_bar(axes: Any, x: float, row: RankedModel, style: Mapping[str, Any]) -> None:
    """A model's predicted accuracy in percent, with two standard deviations."""
    mean = 100 * row.predicted_accuracy
    spread = 0.0 if math.isnan(row.std) else 200 * row.std
    # No accuracy lies beyond 0 or 100, whatever the normal distribution says.
    down, up = min(spread, max(mean, 0.0)), min(spread, max(100.0 - mean, 0.0))
    axes.errorbar(
        [x],
        [mean],
        yerr=[[down], [up]],
        color=style["color"],
        marker=style["marker"] or ".",
        capsize=2,
        linewidth=1,
    )


def beta_curves(ranking: Ranking, strength: Strength) -> str:
    """beta_eff against epoch, on a logarithmic axis where the values span more than a decade."""
    pairs = in_rank_order(ranking)
    name = "beta"
    with _figure(name, (4.8, 3.3)) as (figure, axes):
        seen = []
        for position, (_, trajectory) in reversed(list(enumerate(pairs))):
            beta = trajectory.beta_eff(strength)
            # The line leads over the epochs that were not measured.
            epochs = np.flatnonzero(np.isfinite(beta))
            axes.plot(epochs, beta[epochs], **line_style(position))
            seen.append(beta[epochs])
        values = np.concatenate(seen) if seen else np.zeros(0)
        if values.size and values.min() > 0 and values.max() > 10 * values.min():
            axes.set_yscale("log")
        last = max((t.epochs for _, t in pairs), default=0)
        axes.set_xticks(_epoch_ticks(last))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"β_eff ({strength})")
        alt = f"{strength} beta_eff of {len(pairs)} models over {last} epochs."
        return _svg(figure, name, alt)


def _epoch_ticks(last: int) -> list[int]:
    step = max(1, math.ceil(last / 8))
    return list(range(0, last + 1, step))


def accuracy_against_beta(
    row: RankedModel, trajectory: Trajectory, strength: Strength, position: int
) -> str:
    """One model: accuracy against beta_eff, the fitted line to beta_eff = 0 and its 2σ band."""
    beta, accuracy, _ = points(trajectory, strength)
    name = f"fit{position}"
    style = line_style(position)
    with _figure(name, (2.9, 2.2)) as (figure, axes):
        axes.scatter(beta, 100 * accuracy, color=style["color"], s=18, zorder=3)
        value = "no fit"
        if beta.size >= 2:
            fit = fit_line(beta, accuracy, scaled=True)
            x = np.linspace(min(0.0, beta.min()), max(0.0, beta.max()), 60)
            line = fit.intercept + fit.slope * x
            band = 2 * fit.line_std(x)
            # No accuracy lies beyond 0 or 1: there the line ends; its band may still reach in.
            inside = np.where((line >= 0) & (line <= 1), line, np.nan)
            axes.plot(x, 100 * inside, color=style["color"], linewidth=1.2)
            low, high = np.clip([line - band, line + band], 0, 1)
            axes.fill_between(x, 100 * low, 100 * high, color=style["color"], alpha=0.2, lw=0)
            value = f"{100 * fit.intercept:.1f} % at 0"
        axes.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_ylim(*np.clip(axes.get_ylim(), *ACCURACY_AXIS))
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        axes.set_xlabel(f"β_eff ({strength})")
        axes.set_ylabel("accuracy (%)")
        alt = f"{row.name}: accuracy against {strength} beta_eff, {beta.size} epochs, line: {value}"
        return _svg(figure, name, alt)
