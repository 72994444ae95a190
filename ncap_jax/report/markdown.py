"""`report.md`: the answer and the table, for pull requests and issues."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ncap_jax.report import text
from ncap_jax.report.cost import cost
from ncap_jax.types import Ranking


def escape(words: str) -> str:
    """Words from outside as plain Markdown text: visible, no markup, no HTML, no table breaks."""
    one_line = " ".join(text.visible(words).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ["---:" if name not in ("model", "status", "method") else "---" for name in header]
    return [
        f"| {' | '.join(header)} |",
        f"| {' | '.join(align)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def render(ranking: Ranking) -> str:
    """The report as GitHub-flavoured Markdown."""
    config = ranking.config
    bill = cost(ranking)
    rows = [
        [
            "–" if row.rank is None else str(row.rank),
            escape(row.name),
            text.with_std(row.predicted_accuracy, row.std),
            text.percent(row.p_best, 0),
            text.percent(row.last_seen),
            str(row.epochs),
            text.duration(row.seconds),
            text.status(row),
        ]
        for row in ranking.models
    ]
    header = ["#", "model", "predicted", "P(best)", "last seen", "epochs", "time", "status"]
    lines = [
        f"# Which model to fine-tune on {escape(ranking.dataset)}",
        "",
        f"**{escape(text.answer(ranking))}**",
        "",
        *_table(header, rows),
        "",
        f"{len(ranking.models)} models, {config.epochs} epochs each, head `{config.head}`, seed "
        f"{config.seed}, ranked by `{ranking.predictor}`. {bill.sentence()}",
    ]
    if rates := text.learning_rates(ranking):
        lines += ["", escape(rates)]
    warnings = text.warnings(ranking)
    if warnings:
        lines += ["", "Before you trust this:", "", *(f"- {escape(line)}" for line in warnings)]
    if ranking.info.command:
        lines += ["", "Reproduce:", "", *_code_block(text.shell(ranking.info.command))]
    return "\n".join(lines) + "\n"


def _code_block(command: str) -> list[str]:
    # The fence is longer than any run of backticks inside, so that the block ends where it should.
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", command)), default=0))
    return [f"{fence}sh", command, fence]
