"""The way from the candidates to the winner, in every form of the report."""

from __future__ import annotations

import dataclasses
import types

import pytest

from ncap_jax.report import funnel, html, markdown, notebook
from ncap_jax.report.console import format_ranking
from ncap_jax.report.ranking_files import ranking_to_json
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import FunnelStep, LeftOut, Ranking
from tests.support.pool import make_pool

STEPS = (
    FunnelStep("candidates", 1500),
    FunnelStep("filtered", 40, 0.4),
    FunnelStep("recalled", 3, 65.0),
    FunnelStep("raced", 2, 200.0),
)
ROWS = [
    ("candidates", "1,500", "–"),
    ("filtered by licence, size, speed and weights", "40", "0.4 s"),
    ("recalled: chosen for fine-tuning", "3", "1 min 05 s"),
    ("raced: ran to the last epoch", "2", "3 min 20 s"),
]


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    made = rank_trajectories(make_pool(models=3, epochs=2), "set")
    left_out = (LeftOut("big<b>", "too large"), LeftOut("torn", "no file", "failed"))
    return dataclasses.replace(made, funnel=STEPS, left_out=left_out)


def finished(models: int, seconds: float | None):
    """What the funnel reads of a finish."""
    return types.SimpleNamespace(models=("m",) * models, seconds=seconds)


def test_every_step_with_its_seconds(ranking):
    assert funnel.rows(ranking) == ROWS
    whole = funnel.with_finish(ranking, finished(2, 61.0))
    last = ("finished: trained to convergence", "2", "1 min 01 s")
    assert funnel.rows(whole) == [*ROWS, last]
    # A finish that is repeated is told once.
    again = funnel.with_finish(whole, finished(1, None))
    assert funnel.rows(again)[-1] == ("finished: trained to convergence", "1", "–")
    assert len(again.funnel) == 5
    assert funnel.with_finish(ranking, None) == ranking


def test_nothing_is_told_where_all_candidates_were_trained(ranking):
    plain = dataclasses.replace(ranking, left_out=())
    assert funnel.rows(plain) == []
    assert funnel.left_out(plain) == ""
    for text in (format_ranking(plain), markdown.render(plain), notebook.notebook_ranking(plain)):
        assert "recalled" not in text


def test_those_that_failed_come_first_and_of_many_the_first_are_named(ranking):
    assert funnel.left_out(ranking) == (
        "Left out before training: torn, no file; big<b>, too large."
    )
    many = tuple(LeftOut(f"m{i}", "why") for i in range(1497))
    long = dataclasses.replace(ranking, left_out=(*many, LeftOut("torn\x1b", "no file", "failed")))
    said = funnel.left_out(long)
    assert said.startswith("Left out before training: torn\\x1b, no file; m0, why; ")
    assert said.endswith("; m5, why; and 1,491 more, all of them in ranking.json.")
    assert ranking_to_json(long).count('"reason": "why"') == 1497
    places = tuple(LeftOut(f"p{i}", f"place {i}", "recall") for i in range(2))
    both = dataclasses.replace(ranking, left_out=(*places, LeftOut("torn", "no file", "failed")))
    assert funnel.left_out(both) == (
        "Left out before training: torn, no file. Not recalled: p0, p1."
    )


def test_the_table_stands_in_console_markdown_html_and_notebook(ranking):
    console = format_ranking(ranking, width=100)
    lines = [" ".join(line.split()) for line in console.splitlines()]
    assert "step models left time" in lines
    for row in ROWS:
        assert " ".join(row) in lines
    page = markdown.render(ranking)
    assert "## From the candidates to the winner" in page
    assert "| recalled: chosen for fine-tuning | 3 | 1 min 05 s |" in page
    assert "finished: trained" not in page
    document = html.render(ranking)
    assert '<h2 id="funnel">From the candidates to the winner</h2>' in document
    assert "<td>1,500</td>" in document
    assert "Models left after each step: candidates 1,500;" in document
    assert "<li>big&lt;b&gt;: too large</li>" in document
    cell = notebook.notebook_ranking(ranking)
    assert "From the candidates to the winner" in cell
    assert ">1 min 05 s</td>" in cell
