"""`report.md`: the answer and the table, for pull requests and issues."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ncap_jax.report import finished as finishes
from ncap_jax.report import funnel, inference, text
from ncap_jax.report.cost import cost, wall_time
from ncap_jax.report.finished import FinishedRun
from ncap_jax.types import RankedModel, Ranking


def escape(words: str) -> str:
    """Words from outside as plain Markdown text: visible, no markup, no HTML, no table breaks."""
    one_line = " ".join(text.visible(words).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    words = ("model", "status", "part", "licence", "step")
    align = ["---" if name in words else "---:" for name in header]
    return [
        f"| {' | '.join(header)} |",
        f"| {' | '.join(align)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def render(ranking: Ranking, finished: FinishedRun | None = None, how_to_finish: str = "") -> str:
    """The report as GitHub-flavoured Markdown; for the arguments see `html.render`."""
    ranking = funnel.with_finish(ranking, finished)
    config = ranking.config
    spent = cost(ranking).sentence()
    if took := wall_time(ranking.info.seconds, finished.seconds if finished else None):
        spent += f" {took}"
    rows, others = text.rows_to_show(ranking)
    header = ["#", "model", "predicted", "P(best)", text.within(ranking), "last seen"]
    header += ["epochs", "time", "status"]
    lines = [
        f"# Which model to fine-tune on {escape(ranking.dataset)}",
        "",
        *(_winner(finished, ranking, how_to_finish) if finished is not None else ()),
        f"**{escape(text.answer(ranking))}**",
        "",
        *_table(header, list(map(_cells, rows))),
        "",
        *((f"{others}.", "") if others else ()),
        f"{len(ranking.models)} models, {text.epochs_each(ranking)}, head `{config.head}`, seed "
        f"{config.seed}, ranked by `{ranking.predictor}`. {spent}",
    ]
    if how_to_finish and finished is None:
        lines += ["", "Train the first models to the end and keep the best:", ""]
        lines += _code_block(how_to_finish)
    lines += [*_notes(ranking), *_use(ranking)]
    warnings = text.warnings(ranking)
    if warnings:
        lines += ["", "Before you trust this:", "", *(f"- {escape(line)}" for line in warnings)]
    if ranking.info.command:
        lines += ["", "Reproduce:", "", *_code_block(text.shell(ranking.info.command))]
    return "\n".join(lines) + "\n"


def _notes(ranking: Ranking) -> list[str]:
    """What else is to be known of the table."""
    notes = filter(None, (text.metric_note(ranking), text.learning_rates(ranking)))
    return [line for note in notes for line in ("", escape(note))]


def _use(ranking: Ranking) -> list[str]:
    """What the use of the models costs, and who was left out for it."""
    lines = []
    if inference.is_known(ranking):
        cells = [[*map(escape, row)] for row in inference.rows(ranking)]
        lines += ["", "## What using a model costs", ""]
        if smallest := inference.smallest(ranking):
            lines += [escape(smallest), ""]
        lines += [*_table(inference.header(ranking), cells), "", escape(inference.note(ranking))]
    if left_out := funnel.left_out(ranking):
        lines += ["", escape(left_out)]
    if steps := funnel.rows(ranking):
        cells = [[*map(escape, row)] for row in steps]
        lines += ["", f"## {funnel.TITLE}", "", *_table(funnel.HEADER, cells)]
    return lines


def _cells(row: RankedModel) -> list[str]:
    return [
        "–" if row.rank is None else str(row.rank),
        escape(row.name),
        text.with_std(row.predicted_accuracy, row.std),
        text.chance(row.p_best),
        text.chance(row.p_within),
        text.percent(row.last_seen),
        str(row.epochs),
        text.duration(row.seconds),
        text.status(row),
    ]


def _winner(finished: FinishedRun, ranking: Ranking, how_to_finish: str) -> list[str]:
    """The winner, its figures, and how it is used."""
    facts = finished.facts
    tables = (
        (finishes.SUMMARY, finishes.summary_rows(facts)),
        (finishes.finished_header(finished.metric), finishes.finished_rows(finished.models)),
    )
    lines = [f"**{escape(finishes.answer(facts))}**", ""]
    if newer := finishes.newer(finished.ranking, ranking):
        lines += [escape(newer), ""]
        if how_to_finish:
            lines += ["To train its first models to the end:", "", *_code_block(how_to_finish), ""]
    if finished.folder:
        use = finishes.uses(finished.folder)
        lines += [*_code_block(use.python, "python"), "", *_code_block(use.shell), ""]
    for header, rows in tables:
        lines += [*_table(header, [[*map(escape, row)] for row in rows]), ""]
    return [*lines, escape(finishes.caution(facts)), "", "## Ranking", ""]


def _code_block(command: str, language: str = "sh") -> list[str]:
    # The fence is longer than any run of backticks inside, so that the block ends where it should.
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", command)), default=0))
    return [f"{fence}{language}", command, fence]
