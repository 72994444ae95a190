"""The page: complete, escaped, without any address to fetch."""

from __future__ import annotations

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from ncap_jax.report import figures
from ncap_jax.report.html import render
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import RankConfig, Trajectory
from tests.predictor.pool import make_pool, with_last

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Collects elements and checks that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def whole_info(**changes):
    return {
        "command": "python -m ncap_jax --dataset=digits",
        "seconds": 70.0,
        "device": "CPU",
        "versions": {"jax": "0.10.2"},
        "data": {"training images": 500},
        "class_names": ["zero", "one"],
        "contact_sheet_png": b"\x89PNG",
        **changes,
    }


def test_well_formed_with_all_parts():
    ranking = rank_trajectories(make_pool(), "digits", info=whole_info())
    page = Page(render(ranking))
    assert f"Fine-tune {ranking.best.name}" in page.text
    for word in ("500", "zero, one", "0.10.2", "--dataset=digits", "1 min 10 s"):
        assert word in page.text
    for row in ranking.models:
        assert row.name in page.text
    images = [a for tag, a in page.elements if tag == "svg" and "aria-hidden" not in a]
    assert len(images) == 2 + len(ranking.models)
    assert all(a["role"] == "img" and a["aria-label"] for a in images)
    assert all(a["alt"] for tag, a in page.elements if tag == "img")


def test_ids_are_unique():
    page = Page(render(rank_trajectories(make_pool(), "digits")))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_to_fetch():
    page = Page(render(rank_trajectories(make_pool(), "digits", info=whole_info())))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)


def test_references_inside_figures_lead_somewhere():
    text = render(rank_trajectories(make_pool(), "digits"))
    page = Page(text)
    ids = {a["id"] for _, a in page.elements if "id" in a}
    used = re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text)
    assert used
    assert set(used) <= ids


def test_figures_take_their_colours_from_the_page():
    text = render(rank_trajectories(make_pool(models=9), "digits"))
    assert "#c0ff" not in text
    body = text[text.index("<body>") :]
    # The only literal colour that matplotlib may leave is none at all.
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
    info = whole_info(class_names=[evil], data={evil: evil}, device=evil, command=evil)
    text = render(rank_trajectories(pool, evil, info=info))
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(dict(a).get("src", "data:").startswith("data:") for _, a in page.elements)
    assert "alert(1)" in page.text


def test_same_ranking_same_page():
    pool = make_pool(models=3)
    first, second = (render(rank_trajectories(pool, "digits")) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("predictor", ["last_seen", "published_ridge", "scaled_ridge"])
def test_every_kind_of_predictor(predictor):
    ranking = rank_trajectories(make_pool(3), "digits", RankConfig(predictor=predictor))
    assert "nan %" not in Page(render(ranking)).text


def test_difficult_pools():
    """No trajectories, no beta_eff, nothing ranked, NaN, a single epoch: still a page."""
    pool = make_pool(models=3)
    nothing = [Trajectory("a", "probe", (), "failed", "broken")]
    no_beta = [
        dataclasses.replace(
            t, records=tuple(dataclasses.replace(r, beta_eff={}) for r in t.records)
        )
        for t in pool
    ]
    nan = [with_last(pool[0], validation_accuracy=np.nan), *pool[1:]]
    for trajectories in (nothing, no_beta, nan, make_pool(2, epochs=1), []):
        Page(render(rank_trajectories(trajectories, "digits")))
    bare = dataclasses.replace(rank_trajectories(pool, "digits"), trajectories=())
    assert "What was seen" not in Page(render(bare)).text


def test_figure_strength_follows_predictor_and_record():
    pool = make_pool(models=2)
    choose = figures.figure_strength
    assert choose(rank_trajectories(pool, "x")) == "absolute"
    assert choose(rank_trajectories(pool, "x", RankConfig(predictor="published_ridge"))) == "signed"
    bare = dataclasses.replace(rank_trajectories(pool, "x"), trajectories=())
    assert choose(bare) is None
