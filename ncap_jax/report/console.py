"""The ranking as a table for the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ncap_jax import output
from ncap_jax.report import funnel, inference, text
from ncap_jax.types import ModelSpec, RankedModel, Ranking

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WITHIN = "within"  # a point of the best; its head names the number of points
# Columns in order; each level drops the less important ones, until the table fits without wrapping.
_LEVELS = (
    (
        *("predicted", "P(best)", _WITHIN, "last seen", "best seen", "epochs"),
        *("params", "FLOPs", "latency", "β_eff", "time"),
    ),
    ("predicted", "P(best)", _WITHIN, "last seen", "epochs", "params", "latency", "β_eff", "time"),
    ("predicted", "P(best)", _WITHIN, "last seen", "epochs", "params", "latency"),
    ("predicted", "P(best)", _WITHIN, "last seen", "epochs", "params"),
    ("predicted", "P(best)", _WITHIN, "last seen", "params"),
    ("predicted", "P(best)", _WITHIN, "last seen"),
    ("predicted", "P(best)"),
)
# A table of models has descriptions from this width on: in less, no person could read them.
_DESCRIBED = 90


def format_ranking(ranking: Ranking, width: int | None = None, *, color: bool | None = None) -> str:
    """The table a person reads, with the answer below it.

    Args:
        ranking: what to show.
        width: columns available; None: the terminal's, 100 when there is none.
        color: with ANSI colours; None: only if standard output is a terminal.

    Returns:
        Lines no wider than `width`, without a trailing newline.
    """
    console, buffer = _console(width, color=color)
    width, color = console.width, not console.no_color
    unknown = _unknown(ranking)
    levels = ([name for name in level if name not in unknown] for level in _LEVELS)
    tables = [_table(ranking, columns) for columns in levels]
    # Measured on a wider console: on one of the real width every table claims to fit.
    wide = console.options.update(width=10_000)
    fitting = (t for t in tables if console.measure(t, options=wide).maximum <= width)
    console.print(next(fitting, tables[-1]))
    console.print(_spelled(text.answer(ranking)), style="bold" if color else None)
    notes = (
        inference.smallest(ranking),
        text.metric_note(ranking),
        text.learning_rates(ranking),
        funnel.left_out(ranking),
    )
    for note in filter(None, notes):
        console.print(_spelled(note))
    if steps := funnel.rows(ranking):
        console.print(_funnel(steps))
    for line in text.warnings(ranking):
        console.print(_spelled(f"! {line}"), style="yellow" if color else None)
    return _lines(buffer)


def _unknown(ranking: Ranking) -> set[str]:
    """The columns that would be empty."""
    known = {
        "β_eff": text.has_beta_eff(ranking),
        "params": any(row.cost.parameters for row in ranking.models),
        "FLOPs": any(row.cost.flops for row in ranking.models),
        "latency": inference.is_measured(ranking),
    }
    return {name for name, found in known.items() if not found}


def format_models(
    specs: Sequence[ModelSpec], available: Mapping[str, str], width: int | None = None
) -> str:
    """Models as a table: name, sizes, whether the weights are here, their licence, a description.

    A terminal that is too narrow for descriptions that a person can read has none of them.

    Args:
        specs: the models, in the order of the rows.
        available: name -> where this machine has the weights, in a word or two.
        width: columns available; None: the terminal's, 100 when there is none.

    Returns:
        Lines no wider than `width`, without a trailing newline.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("input", "features", "parameters"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("available\nhere", no_wrap=True)
    table.add_column("weights", overflow="fold")
    console, buffer = _console(width, color=False)
    if console.width >= _DESCRIBED:
        table.add_column("description", overflow="fold", ratio=1)
    for spec in specs:
        parameters = "–" if spec.parameters is None else f"{spec.parameters:,}"
        sizes = f"{spec.input_size} px", str(spec.feature_width), parameters
        weights = "random only" if spec.weights is None else spec.licence or "yes"
        cells = [spec.name, *sizes, available[spec.name], weights, spec.description]
        table.add_row(*map(_spelled, cells[: len(table.columns)]))
    console.print(table)
    return _lines(buffer)


def _console(width: int | None, *, color: bool | None) -> tuple[Console, io.StringIO]:
    """A console that writes into a buffer; standard output decides what is None."""
    # Imported here: `import ncap_jax` alone needs no table.
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    color = terminal if color is None else color
    if width is None:
        width = shutil.get_terminal_size((100, 24)).columns if terminal else 100
    buffer = io.StringIO()
    return Console(
        file=buffer,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    ), buffer


def _spelled(words: str) -> str:
    """Words in the characters of standard output, before they are laid out in columns."""
    return output.spelled(words, getattr(sys.stdout, "encoding", None))


def _lines(buffer: io.StringIO) -> str:
    lines = _spelled(buffer.getvalue()).rstrip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _table(ranking: Ranking, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=_spelled(text.title(ranking)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for column in columns:
        head = text.within(ranking) if column == _WITHIN else column
        table.add_column(_spelled(head), justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    rows, others = text.rows_to_show(ranking)
    for row in rows:
        cells = _cells(row)
        rank = "–" if row.rank is None else str(row.rank)
        status = text.status(row) + (" !" if row.flag else "")
        shown = [rank, text.visible(row.name), *(cells[column] for column in columns), status]
        table.add_row(*map(_spelled, shown))
    if others:
        table.caption, table.caption_justify, table.caption_style = others, "left", "none"
    return table


def _funnel(steps: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(funnel.HEADER[0], overflow="fold")
    for name in funnel.HEADER[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for cells in steps:
        table.add_row(*map(_spelled, cells))
    return table


def _cells(row: RankedModel) -> dict[str, str]:
    return {
        "predicted": text.with_std(row.predicted_accuracy, row.std),
        "P(best)": text.chance(row.p_best),
        _WITHIN: text.chance(row.p_within),
        "last seen": text.percent(row.last_seen),
        "best seen": text.percent(row.best_seen),
        "epochs": str(row.epochs),
        "params": inference.short(row.cost.parameters),
        "FLOPs": inference.short(row.cost.flops),
        "latency": inference.latency_in_words(row),
        "β_eff": text.number(text.beta_eff_now(row)),
        "time": text.duration(row.seconds),
    }
