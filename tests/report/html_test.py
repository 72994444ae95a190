"""The page: complete, escaped, without any address to fetch."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from ncap_jax.options import RankConfig
from ncap_jax.predictor import PREDICTORS
from ncap_jax.report.html import render
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import LeftOut, Ranking, RunInfo, Trajectory
from tests.support import hidden
from tests.support.costs import priced
from tests.support.page import Page, whole_info
from tests.support.pool import make_pool, measured_after, with_last


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    """More models than have colours or figures in sight, and every fact of the run."""
    return rank_trajectories(make_pool(models=9), "digits", info=whole_info())


@pytest.fixture(scope="module")
def text(ranking: Ranking) -> str:
    return render(ranking)


def test_well_formed_with_all_parts(ranking: Ranking, text: str):
    page = Page(text)
    assert f"Fine-tune {ranking.best.name}" in page.text
    for word in ("500", "zero, one", "0.10.2", "--dataset=digits", "1 min 10 s", "CPU"):
        assert word in page.text
    for row in ranking.models:
        assert row.name in page.text
    images = [a for tag, a in page.elements if tag == "svg" and "aria-hidden" not in a]
    assert len(images) == 2 + len(ranking.models)
    assert all(a["role"] == "img" and a["aria-label"] for a in images)
    assert all(a["alt"] for tag, a in page.elements if tag == "img")


def test_intervals_are_two_standard_deviations_on_one_axis():
    """From the lowest end of an interval, 0, to the highest, 100."""
    found = rank_trajectories(make_pool(models=4, epochs=12, seed=1), "digits")
    bars = re.findall(
        r'<line x1="([\d.]+)" x2="([\d.]+)" y1="5" y2="5"/><line class="mid" x1="([\d.]+)"',
        render(found),
    )
    ends = [
        (m.predicted_accuracy - 2 * m.std, m.predicted_accuracy + 2 * m.std, m.predicted_accuracy)
        for m in found.models
    ]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    assert 0 < low < high < 1
    expected = [[100 * (value - low) / (high - low) for value in row] for row in ends]
    np.testing.assert_allclose(np.array(bars, dtype=float), expected, atol=0.006)


def test_ids_are_unique(text: str):
    page = Page(text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_to_fetch(text: str):
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)


def test_references_inside_figures_lead_somewhere(text: str):
    page = Page(text)
    ids = {a["id"] for _, a in page.elements if "id" in a}
    used = re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text)
    assert used
    assert set(used) <= ids


def test_figures_take_their_colours_from_the_page(text: str):
    assert "#c0ff" not in text
    body = text[text.index("<body>") :]
    # Matplotlib leaves no literal colour behind, apart from `none`.
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{3,6})", body)) == set()


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "--><script>alert(1)</script><!--",
        "]]><script>alert(1)</script>",
        "</text></svg><script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "{{ 7*7 }}{% raw %}<svg onload=alert(1)>",
    ],
)
def test_names_are_escaped(evil):
    """Of models, classes, data and files: in the text, in attributes, in the figures' SVG."""
    pool = [dataclasses.replace(t, model=f"{t.model}{evil}") for t in make_pool(3)]
    pool[0] = with_last(pool[0], validation_loss=float("nan"))
    pool[1] = dataclasses.replace(pool[1], status="failed", message=f'"{evil}')
    info = whole_info(class_names=(evil,), data={evil: evil}, device=evil, command=evil)
    text = render(rank_trajectories(pool, evil, info=info))
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(dict(a).get("src", "data:").startswith("data:") for _, a in page.elements)
    assert "alert(1)" in page.text


def test_control_characters_are_written_out():
    """In the text, in attributes and in the figures' descriptions."""
    page = render(hidden.ranking())
    assert hidden.found(page) == []
    for name in (*hidden.WRITTEN, r"nul\x00", r"iso\u2066late", r"esc\x1b", r"c1\x9b", r"cpu\x1b"):
        assert name in page
    assert r"$'--dataset=a\x1bb'" in Page(page).text


@pytest.mark.parametrize("listed", [False, True])
def test_the_shortlist_is_explained_where_there_is_one(listed):
    ranking = rank_trajectories(make_pool(2), "digits", RankConfig(shortlist_points=2.5))
    rows = tuple(dataclasses.replace(row, shortlisted=listed) for row in ranking.models)
    page = Page(render(dataclasses.replace(ranking, models=rows)))
    assert ("Shortlist: with 90 % certainty one of these models is" in page.text) == listed
    assert ("ok, shortlist" in page.text) == listed
    assert "P(within 2.5 points): the chance that the model is within 2.5 points of" in page.text


@pytest.mark.parametrize(
    ("predictor", "shown"),
    [("published_ridge", 8), ("scaled_ridge", 8), ("last_validation_accuracy", 0)],
)
def test_accuracy_against_beta_eff_is_folded_unless_it_ranks(predictor, shown):
    """Then it stands before the other methods, else below them and a click away."""
    pool = make_pool(models=9)
    text = render(rank_trajectories(pool, "digits", RankConfig(predictor=predictor)))
    open_part = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert open_part.count('aria-label="model_') == shown
    assert text.count('aria-label="model_') == 9
    assert (text.index('id="fits"') < text.index('id="methods"')) == (shown > 0)
    assert ("The ranking does not use it." in text) == (shown == 0)
    assert (f"<summary>Show {len(pool)} models</summary>" in text) == (shown == 0)


def test_parts_without_facts_are_left_out():
    bare = rank_trajectories(make_pool(models=2), "digits")
    some = dataclasses.replace(bare, info=RunInfo(versions={"jax": "0.10.2"}))
    empty, page = Page(render(bare)), Page(render(some))
    for heading in ("Data: digits", "Wall time in all", "classes:"):
        assert heading not in empty.text
        assert heading not in page.text
    assert "0.10.2" in page.text
    assert not any(tag in ("pre", "img") for tag, _ in empty.elements)


def test_same_ranking_same_page():
    pool = make_pool(models=3)
    first, second = (render(rank_trajectories(pool, "digits")) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("predictor", ["last_seen", "published_ridge", "scaled_ridge"])
def test_every_kind_of_predictor(predictor):
    ranking = rank_trajectories(make_pool(3), "digits", RankConfig(predictor=predictor))
    assert "nan %" not in Page(render(ranking)).text


@pytest.mark.parametrize("measured", [False, True])
def test_what_using_a_model_costs_is_shown_with_its_figures(measured):
    ranking = priced(rank_trajectories(make_pool(3), "digits"), measured=measured)
    left_out = (LeftOut("big<b>", "9 parameters, more than max_parameters=8"),)
    text = render(dataclasses.replace(ranking, left_out=left_out))
    page = Page(text)
    assert f"{ranking.smallest.name} is also the smallest within one point" in page.text
    assert "Left out before training: big<b>, 9 parameters" in page.text
    assert "1.00 M" in page.text
    assert "Apache-2.0" in page.text
    assert ("latency, 1 image" in page.text) == measured
    figures = re.findall(r'aria-label="Predicted accuracy of 3 models against the ([^.]*)\.', text)
    other = "time to label one image" if measured else "operations for one image"
    assert figures == ["number of parameters", other]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_without_costs_there_is_no_part_for_them():
    text = render(rank_trajectories(make_pool(2), "digits"))
    assert "What using a model costs" not in text
    assert "Left out before" not in text


CAPTIONS = ("β_eff (absolute)", "Neural capacitance β_eff", "Accuracy against β_eff")


@pytest.mark.parametrize(
    ("measured", "shown"),
    [((), ()), ((0, 5), CAPTIONS[:2]), (range(6), CAPTIONS)],
    ids=["never", "at the ends", "every epoch"],
)
def test_columns_and_figures_of_beta_eff_are_those_of_what_was_measured(measured, shown):
    pool = [measured_after(t, measured) for t in make_pool(models=3)]
    page = Page(render(rank_trajectories(pool, "digits", RankConfig())))
    assert [caption for caption in CAPTIONS if caption in page.text] == [*shown]
    tags = [tag for tag, _ in page.elements]
    headings = sum(attributes.get("scope") == "col" for _, attributes in page.elements)
    assert tags.count("td") > 0
    # The ranking's columns, and those of the methods' table.
    assert headings == (12 if shown else 11) + 1 + len(PREDICTORS)


def test_difficult_pools():
    """No trajectories, no beta_eff, nothing ranked, NaN, a single epoch: still a page."""
    pool = make_pool(models=3)
    nothing = [Trajectory("a", "probe", (), "failed", "broken")]
    no_beta = [measured_after(t, ()) for t in pool]
    nan = [with_last(pool[0], validation_accuracy=np.nan), *pool[1:]]
    for trajectories in (nothing, no_beta, nan, make_pool(2, epochs=1), []):
        Page(render(rank_trajectories(trajectories, "digits")))
    bare = dataclasses.replace(rank_trajectories(pool, "digits"), trajectories=())
    assert "What was seen" not in Page(render(bare)).text
