"""The Markdown report: the answer, a table that stays a table, nothing active."""

from __future__ import annotations

import dataclasses

from ncap_jax.report import finished, text
from ncap_jax.report.markdown import escape, render
from ncap_jax.selection.ranking import rank_trajectories
from tests.support import hidden
from tests.support.finished import finished_run
from tests.support.pool import make_pool


def test_answer_first_then_one_row_a_model():
    ranking = rank_trajectories(make_pool(), "digits", info={"command": "python -m ncap_jax"})
    lines = render(ranking).splitlines()
    assert lines[0] == "# Which model to fine-tune on digits"
    assert lines[2] == f"**{escape(text.answer(ranking))}**"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(ranking.models)
    assert len({line.count(" | ") for line in table}) == 1
    assert "python -m ncap_jax" in lines


def test_names_cannot_break_out():
    pool = [dataclasses.replace(t, model=f"{t.model}|<b>`x`\n# y") for t in make_pool(2)]
    ranking = rank_trajectories(pool, "a|b\n\n# c", info={"command": "echo '```'"})
    page = render(ranking)
    assert "<b>" not in page.replace(r"\<b\>", "")
    assert sum(line.startswith("# ") for line in page.splitlines()) == 1
    assert page.count("````") == 2


def test_the_winner_comes_first():
    ranking = rank_trajectories(make_pool(2), "digits")
    run = finished_run(folder="run`s")
    page = render(ranking, run, "python -m ncap_jax finish runs")
    lines = page.splitlines()
    assert lines[2] == f"**{escape(finished.answer(run.facts))}**"
    assert lines[4:11] == [
        "```python",
        "ncap.load('run`s').predict('new/')",
        "```",
        "",
        "```sh",
        "python -m ncap_jax predict 'run`s' new/",
        "```",
    ]
    rows = [*finished.summary_rows(run.facts), *finished.finished_rows(run.models)]
    for row in rows:
        assert f"| {' | '.join(map(escape, row))} |" in lines
    assert lines.index("## Ranking") > lines.index(escape(finished.caution(run.facts)))
    assert "ncap_jax finish" not in page


def test_a_ranking_that_is_newer_than_the_winner_is_told():
    ranking = rank_trajectories(make_pool(2), "digits", info={"seconds": 10.0})
    then = finished.RankingSummary("a_b", ranking.config.epochs, ("model_0", "model_1"))
    run = finished_run(ranking=then, seconds=5.0)
    lines = render(ranking, run, "finish it").splitlines()
    assert lines[4] == escape(finished.newer(then, ranking))
    assert lines[6:11] == ["To train its first models to the end:", "", "```sh", "finish it", "```"]
    assert any(
        line.endswith("Wall time in all: 15.0 s, 10.0 s for the ranking and 5.0 s for the finish.")
        for line in lines
    )


def test_without_a_winner_a_block_says_how_to_finish():
    ranking = rank_trajectories(make_pool(2), "digits")
    plain, told = render(ranking), render(ranking, how_to_finish="finish it")
    block = "\nTrain the first models to the end and keep the best:\n\n```sh\nfinish it\n```\n"
    assert told.count(block) == 1
    assert told.replace(block, "") == plain


def test_failures_are_listed():
    pool = make_pool(3)
    pool[0] = dataclasses.replace(pool[0], status="diverged", message="loss became NaN")
    page = render(rank_trajectories(pool, "digits"))
    assert r"- model\_0: diverged – loss became NaN" in page


def test_control_characters_are_written_out():
    page = render(hidden.ranking())
    assert hidden.found(page) == []
    for name in hidden.WRITTEN:
        assert escape(name) in page
    assert r"$'--dataset=a\x1bb'" in page
