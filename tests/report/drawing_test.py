"""How the report draws: in the page's colours, told apart without them, ids of one's own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ncap_jax.report import drawing


def drawn(name: str) -> str:
    with drawing.figure(name, (2.0, 1.5)) as (figure, axes):
        axes.plot([0, 1], **drawing.line_style(0))
        axes.plot([1, 0], color=drawing.ACCENT)
        return drawing.to_svg(figure, name, 'a "b" <c>\x1b')


def test_the_first_seven_have_styles_of_their_own_and_the_others_share_one():
    styles = [drawing.line_style(i) for i in range(9)]
    assert styles[7] == styles[8]
    own = {(s["color"], str(s["linestyle"]), s["marker"]) for s in styles[:7]}
    assert len(own) == len({m for _, _, m in own}) == len({d for _, d, _ in own}) == 7


def test_colours_are_variables_of_the_page_and_the_size_is_its_own():
    svg = drawn("one")
    assert {"var(--s1)", "var(--accent)", "var(--grid)", "var(--ink)"} <= {
        *re.findall(r"var\(--\w+\)", svg)
    }
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{3,6}", svg)
    assert not re.match(r"<svg[^>]* (?:width|height)=", svg)
    root = ET.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", r'a "b" <c>\x1b')


def test_ids_of_two_figures_differ_and_lead_somewhere():
    one, other = drawn("one"), drawn("other")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert all(ids)
    assert not ids[0] & ids[1]
    for svg, known in zip((one, other), ids):
        assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg)) <= known


@pytest.mark.parametrize(
    ("last", "ticks"), [(0, [0]), (8, [*range(9)]), (30, [*range(0, 31, 4)]), (1000, 125)]
)
def test_an_axis_names_nine_epochs_at_most(last, ticks):
    found = drawing.epoch_ticks(last)
    assert len(found) <= 9
    assert found == (ticks if isinstance(ticks, list) else [*range(0, last + 1, ticks)])
