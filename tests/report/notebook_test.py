"""Ranking and winner in a notebook's cell: tables for a screen reader too, escaped, any colours."""

from __future__ import annotations

import dataclasses

from ncap_jax.options import RankConfig
from ncap_jax.report import finished, text
from ncap_jax.report.notebook import notebook_ranking, notebook_winner
from ncap_jax.selection.ranking import rank_trajectories
from tests.support import hidden
from tests.support.finished import facts
from tests.support.page import Page
from tests.support.pool import make_pool, measured_after, with_last


def test_a_table_with_caption_and_headings():
    pool = make_pool(3)
    pool[1] = dataclasses.replace(pool[1], status="failed", message="broken")
    pool[2] = with_last(pool[2], validation_loss=float("nan"))
    ranking = rank_trajectories(pool, "digits")
    shown = ranking._repr_html_()
    page = Page(shown)
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("table"), tags.count("caption"), tags.count("pre")) == (1, 1, 0)
    scopes = [attributes["scope"] for tag, attributes in page.elements if tag == "th"]
    assert scopes == ["col"] * 10 + ["row"] * 3
    assert tags.count("tr") == 4
    assert f"digits, ranked by {ranking.predictor}{text.answer(ranking)}" in page.text
    best = ranking.best
    assert f"1{best.name}{text.with_std(best.predicted_accuracy, best.std)}" in page.text
    assert "model_1: failed – broken" in page.text


def test_without_beta_eff_there_is_no_column_for_it():
    whole = rank_trajectories(make_pool(2), "digits", RankConfig())
    bare = [measured_after(t, ()) for t in make_pool(2)]
    tables = [
        Page(notebook_ranking(r)) for r in (whole, rank_trajectories(bare, "digits", RankConfig()))
    ]
    columns = [
        sum(attributes.get("scope") == "col" for _, attributes in page.elements) for page in tables
    ]
    cells = [sum(tag == "td" for tag, _ in page.elements) for page in tables]
    assert columns == [10, 9]
    assert cells == [2 * 9, 2 * 8]
    assert ["β_eff" in page.text for page in tables] == [True, False]


def test_names_are_escaped_and_nothing_is_active():
    pool = [dataclasses.replace(t, model=f"{t.model}<script>&") for t in make_pool(2)]
    shown = notebook_ranking(rank_trajectories(pool, "<b>"))
    assert "model_0&lt;script&gt;&amp;" in shown
    tags = {tag for tag, _ in Page(shown).elements}
    assert not tags & {"script", "b", "style", "link"}
    assert hidden.found(notebook_ranking(hidden.ranking())) == []
    for name in hidden.WRITTEN:
        assert name in notebook_ranking(hidden.ranking())


def test_the_winners_figures_are_a_table():
    about = facts()
    page = Page(notebook_winner(about))
    rows = [[], *finished.summary_rows(about)]
    assert sum(tag == "tr" for tag, _ in page.elements) == len(rows) == 3
    assert f"Winner: model_1{finished.answer(about)}" in page.text
    for cell in (*finished.SUMMARY, *rows[1], *rows[2], finished.caution(about)):
        assert cell in page.text
    evil = dataclasses.replace(about, name="<b>\x1b")
    shown = notebook_winner(evil)
    assert r"Winner: &lt;b&gt;\x1b" in shown
    assert "<b>" not in shown
    assert "<p>" not in notebook_winner(dataclasses.replace(about, metrics={}))


def test_colours_are_the_notebooks():
    """Light or dark: neither text nor background has one of its own."""
    page = Page(notebook_ranking(rank_trajectories(make_pool(2), "digits")))
    styles = [attributes["style"] or "" for _, attributes in page.elements if "style" in attributes]
    assert len(styles) > 20
    rules = {rule.split(":")[0].strip(): rule for style in styles for rule in style.split(";")}
    assert not any("background" in name for name in rules)
    assert rules["color"].strip() == "color: inherit"
