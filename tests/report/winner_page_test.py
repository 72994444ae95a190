"""The winner in the page: all parts, escaped, bounded; and nothing of it without a winner."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re

import pytest

from ncap_jax.report import finished as finishes
from ncap_jax.report import text
from ncap_jax.report.cost import cost
from ncap_jax.report.finished import FinishedRun
from ncap_jax.report.html import render
from ncap_jax.report.winner_page import CLASS, PATH, parts
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import Ranking
from tests.support import hidden
from tests.support.finished import facts, finished_run, without_figures
from tests.support.page import Page
from tests.support.pool import make_pool

EVIL = "\"'></text></svg><script>alert(1)</script>{{ 7*7 }}\x1b"


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    """With neither figures nor methods of its own: those are tested elsewhere."""
    return dataclasses.replace(rank_trajectories(make_pool(2), "photos"), trajectories=())


@pytest.fixture(scope="module")
def run() -> FinishedRun:
    return finished_run()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    without_figures(monkeypatch)


def test_the_page_shows_the_winner_first(ranking: Ranking, run: FinishedRun):
    page = Page(render(ranking, run))
    use = finishes.uses("runs/photos/winner")
    for words in (finishes.answer(run.facts), *use, finishes.caution(run.facts)):
        assert words in page.text
    headings = [a["id"] for tag, a in page.elements if tag == "h2" and "id" in a]
    assert headings[:5] == ["winner", "finish", "classes", "mistakes", "ranking"]
    figures = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert len(figures) == 3
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for row in (*finishes.summary_rows(run.facts), *finishes.finished_rows(run.models)):
        for cell in row:
            assert cell in page.text
    for each in run.metrics.classes:
        assert each.name in page.text
    # The ranking's own answer stands above its table.
    assert f"Fine-tune {ranking.best.name}" in page.text[page.text.index("Ranking") :]


@pytest.mark.usefixtures("undrawn")
def test_the_page_can_be_used_without_eyes_or_mouse(ranking: Ranking, run: FinishedRun):
    """What a program can count; where there is a browser, browser_test.py looks further."""
    page = Page(render(ranking, run))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert all(a["alt"] for tag, a in page.elements if tag == "img")
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["aria-labelledby"] for tag, a in page.elements if tag == "section"} <= ids
    scrolled = [a for _, a in page.elements if a.get("class") == "scroll"]
    assert len({a["aria-label"] for a in scrolled}) == len(scrolled) == 6
    assert {a["tabindex"] for a in scrolled} == {"0"}
    assert {a.get("scope") for tag, a in page.elements if tag == "th"} == {"row", "col"}


@pytest.mark.usefixtures("undrawn")
def test_the_wrong_images_have_their_pixels_and_names(ranking: Ranking, run: FinishedRun):
    page = Page(render(ranking, run))
    sources = [a["src"] for tag, a in page.elements if tag == "img"]
    pictures = [base64.b64encode(each.png).decode() for each in run.wrong]
    assert sources == [f"data:image/png;base64,{picture}" for picture in pictures]
    assert len(sources) == 10
    for each in run.wrong:
        assert each.name in page.text
    unread = dataclasses.replace(run, wrong=(dataclasses.replace(run.wrong[0], png=b"", name=""),))
    page = Page(render(ranking, unread))
    assert "img" not in [tag for tag, _ in page.elements]
    assert f"image {run.wrong[0].mistake.index}" in page.text


def test_names_are_escaped(ranking: Ranking, run: FinishedRun):
    """Of classes, models, files and folders; in text, attributes and the figures' SVG."""
    names = tuple(f"{name}{EVIL}" for name in "abcd")
    wrong = tuple(dataclasses.replace(each, name=EVIL) for each in finished_run(names).wrong)
    models = tuple(dataclasses.replace(each, name=EVIL) for each in run.models)
    evil = finished_run(names, models=models, wrong=wrong, folder=EVIL)
    html = render(ranking, evil)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(a.get("src", "data:").startswith("data:") for _, a in page.elements)
    assert hidden.found(html) == []
    assert page.text.count("alert(1)") > 20


def test_many_classes_with_long_names_keep_the_page_small():
    names = tuple(f"{i} {'x' * 5000}" for i in range(100))
    about = facts(names[:4])
    whole = dataclasses.replace(about, metrics=facts(names).metrics, class_names=names)
    wrong = tuple(
        dataclasses.replace(each, name="/" + "y" * 5000) for each in finished_run(names).wrong
    )
    found = parts(finished_run(facts=whole, wrong=wrong))
    assert found["confusion_svg"] == ""
    assert len(found["classes"]) == finishes.WEAKEST
    assert len(found["confused"]) == finishes.MOST_PAIRS
    assert found["num_classes"] == 100
    longest = [each["name"] for each in (*found["classes"], *found["confused"])]
    assert max(map(len, longest)) == CLASS
    assert {len(each["name"]) for each in found["wrong"]} == {PATH}


@pytest.mark.usefixtures("undrawn")
def test_the_validation_part_stands_in_for_a_test_part(ranking: Ranking):
    about = facts()
    bare = dataclasses.replace(about, metrics={"validation": about.metrics["validation"]})
    page = Page(render(ranking, finished_run(facts=bare, wrong=())))
    assert "Classes of the validation part" in page.text
    assert "Most confidently wrong" not in page.text
    assert "The data set has no test part." in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_model_that_was_not_saved_has_no_lines_of_use(ranking: Ranking):
    page = Page(render(ranking, finished_run(folder="", wrong=())))
    assert "ncap_jax predict" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_models_beyond_the_colours_share_a_line(run: FinishedRun):
    models = tuple(dataclasses.replace(run.models[0], name=f"m{i}") for i in range(9))
    legend = parts(dataclasses.replace(run, models=models))["legend"]
    assert [item["color"] for item in legend[6:]] == ["var(--s7)", "var(--other)", "var(--other)"]


@pytest.mark.usefixtures("undrawn")
def test_without_a_winner_one_line_says_how_to_finish(ranking: Ranking):
    """Apart from it, the page is what it was before there were winners."""
    plain, told = render(ranking), render(ranking, how_to_finish="python -m ncap_jax finish 'a&b'")
    before, after = plain.splitlines(), told.splitlines()
    (line,) = [line for line in after if line not in before]
    assert [each for each in after if each != line] == before
    assert line == (
        '  <p class="note">To train the first models to the end and keep the best: '
        "<code>python -m ncap_jax finish &#39;a&amp;b&#39;</code></p>"
    )
    for word in ("winner", "mistakes", ".plain"):
        assert word not in plain
    assert "ncap_jax finish" not in render(ranking, finished_run(wrong=()), "ncap_jax finish")


@pytest.mark.usefixtures("undrawn")
def test_a_ranking_that_is_newer_than_the_winner_is_told(ranking: Ranking, run: FinishedRun):
    then = finishes.RankingSummary.of(ranking)
    command = "python -m ncap_jax finish runs"
    same, old = (
        Page(render(ranking, dataclasses.replace(run, ranking=each), command))
        for each in (then, dataclasses.replace(then, epochs=3))
    )
    assert "newer" not in same.text
    assert command not in same.text
    told = "The ranking below is newer than this model: 5 instead of 3 epochs."
    assert f"{told} To train its first models to the end: {command}" in old.text


@pytest.mark.usefixtures("undrawn")
def test_the_cost_is_that_of_ranking_and_finish(ranking: Ranking, run: FinishedRun):
    timed = dataclasses.replace(ranking, info=dataclasses.replace(ranking.info, seconds=100.0))
    page = Page(render(timed, dataclasses.replace(run, seconds=60.0)))
    assert "Time: 22.0 s, and 34.5 s to train 2 to the end." in page.text
    bill = cost(ranking)
    saved = text.duration(bill.full - bill.spent - 34.5)
    assert f"Saved: about {saved}, the training of the winner included." in page.text
    assert "Wall time in all: 2 min 40 s, 1 min 40 s for the ranking and 1 min 00 s" in page.text
