"""The ranking, and the winner, as HTML tables for a notebook's output cell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ncap_jax.report import finished, funnel, inference, text
from ncap_jax.types import RankedModel, Ranking

if TYPE_CHECKING:
    from ncap_jax.winner.facts import ModelFacts

_COLUMNS = (
    *("#", "model", "predicted", "P(best)", "within", "last seen", "epochs", "β_eff"),
    *("time", "status"),
)
# Columns that are read, not compared: aligned to the left.
_WORDS = ("model", "status", "part", "step")
# Only places and a line that is transparent: the colours are the notebook's, light or dark.
_CELL = "padding: .3em .6em; white-space: nowrap; text-align: "
_CAPTION = "text-align: left; caption-side: top; color: inherit; padding: .3em 0"
_RULE = "; border-bottom: 1px solid rgba(128, 128, 128, .5)"


def notebook_ranking(ranking: Ranking) -> str:
    """The table with the answer as its caption and the warnings below; names are escaped."""
    left_out = () if text.has_beta_eff(ranking) else ("β_eff",)
    columns = [name for name in _COLUMNS if name not in left_out]
    title = _escaped(text.title(ranking))
    shown, others = text.rows_to_show(ranking)
    rows = [_row(row, columns) for row in shown]
    heads = [text.within(ranking) if name == "within" else name for name in columns]
    lines = ["<div>", *_table(title, text.answer(ranking), heads, rows)]
    notes = (
        others and f"{others}.",
        inference.smallest(ranking),
        text.metric_note(ranking),
        text.learning_rates(ranking),
        funnel.left_out(ranking),
    )
    lines += [f"<p>{_escaped(note)}</p>" for note in filter(None, notes)]
    if steps := funnel.rows(ranking):
        cells = [f"<tr>{''.join(map(_cell, funnel.HEADER, row))}</tr>" for row in steps]
        lines += _table(_escaped(funnel.TITLE), "", funnel.HEADER, cells)
    if warnings := text.warnings(ranking):
        items = "".join(f"<li>{_escaped(line)}</li>" for line in warnings)
        lines.append(f"<p>Before you trust this:</p><ul>{items}</ul>")
    return "\n".join([*lines, "</div>"])


def notebook_winner(facts: ModelFacts) -> str:
    """The winner's figures as a table, with what they are worth below it; names are escaped."""
    title = f"Winner: {_escaped(facts.name)}"
    rows = [
        f"<tr>{''.join(map(_cell, finished.SUMMARY, cells))}</tr>"
        for cells in finished.summary_rows(facts)
    ]
    lines = ["<div>", *_table(title, finished.answer(facts), finished.SUMMARY, rows)]
    if facts.metrics:
        lines.append(f"<p>{_escaped(finished.caution(facts))}</p>")
    return "\n".join([*lines, "</div>"])


def _table(title: str, answer: str, columns: Sequence[str], rows: Sequence[str]) -> list[str]:
    """The lines of a table under a caption; title and rows are markup, the answer is text."""
    return [
        '<table style="border-collapse: collapse">',
        f'<caption style="{_CAPTION}">{title}<br><strong>{_escaped(answer)}</strong></caption>',
        f"<thead><tr>{''.join(map(_heading, columns))}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        "</table>",
    ]


def _heading(column: str) -> str:
    return f'<th scope="col" style="{_CELL}{_side(column)}{_RULE}">{column}</th>'


def _row(row: RankedModel, columns: Sequence[str]) -> str:
    cells = (
        "–" if row.rank is None else str(row.rank),
        row.name,
        text.with_std(row.predicted_accuracy, row.std),
        text.chance(row.p_best),
        text.chance(row.p_within),
        text.percent(row.last_seen),
        str(row.epochs),
        text.number(text.beta_eff_now(row)),
        text.duration(row.seconds),
        text.status(row),
    )
    words = dict(zip(_COLUMNS, cells, strict=True))
    return f"<tr>{''.join(_cell(column, words[column]) for column in columns)}</tr>"


def _cell(column: str, words: str) -> str:
    style = f'style="{_CELL}{_side(column)}"'
    if column in ("model", "part"):
        return f'<th scope="row" {style}>{_escaped(words)}</th>'
    return f"<td {style}>{_escaped(words)}</td>"


def _side(column: str) -> str:
    return "left" if column in _WORDS else "right"


def _escaped(words: str) -> str:
    return html.escape(text.visible(words))
