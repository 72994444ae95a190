"""How the report draws: inline SVG that follows the page's light or dark colours.

Matplotlib draws with placeholder colours; each is replaced by a CSS variable that the page
defines once for light, dark and print. A model is told by line style and marker as well as by
colour. Figures are `Figure` objects: no pyplot, no global backend, nothing to close.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ncap_jax.report import text

# Placeholder -> CSS variable. The hues are defined in report.css.
INK, GRID, OTHER, ACCENT = "#c0ffe0", "#c0ffe1", "#c0ffe2", "#c0ffe3"
SERIES = tuple(f"#c0ff0{i}" for i in range(1, 8))
_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    OTHER: "var(--other)",
    ACCENT: "var(--accent)",
} | {token: f"var(--s{i})" for i, token in enumerate(SERIES, start=1)}
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
def figure(name: str, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure of this size in inches and its axes, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=size, layout="constrained")
        yield drawn, drawn.add_subplot()


def to_svg(drawn: Any, name: str, alt: str) -> str:
    """The figure as <svg>, in the colours of the page, with alternative text and unique ids."""
    from markupsafe import escape

    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
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


def epoch_ticks(last: int) -> list[int]:
    """Epochs that an axis up to the last one names, at most nine."""
    step = max(1, math.ceil(last / 8))
    return list(range(0, last + 1, step))
