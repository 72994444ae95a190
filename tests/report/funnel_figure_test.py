"""The figure of the steps: a bar for each, told in words too."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ncap_jax.report import funnel_figure
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import FunnelStep
from tests.support.pool import make_pool

RANKING = rank_trajectories(make_pool(models=3, epochs=2), "set")
STEPS = (
    FunnelStep("candidates", 1500),
    FunnelStep("filtered", 900, 5.0),
    FunnelStep("recalled", 12, 65.0),
    FunnelStep("raced", 3, None),
)


@pytest.fixture(scope="module")
def svg() -> str:
    return funnel_figure.figure(dataclasses.replace(RANKING, funnel=STEPS))


def test_every_step_has_its_number_and_its_seconds(svg):
    texts = [each.strip() for each in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    for words in ("1,500", "900, 5.0 s", "12, 1 min 05 s", "3"):
        assert words in texts
    for step in STEPS:
        assert step.step in texts


def test_a_longer_bar_for_more_models(svg):
    """The words stand at the ends of the bars."""
    places = [
        float(re.search(rf'<text[^>]* x="([\d.]+)"[^>]*>\s*{words}<', svg).group(1))
        for words in ("1,500", "900, 5.0 s", "12, 1 min 05 s", "3")
    ]
    assert places == sorted(places, reverse=True)
    assert len(set(places)) == 4


def test_it_is_told_in_words(svg):
    assert "Models left after each step: candidates 1,500; filtered 900 in 5 s;" in svg
    assert "raced 3." in svg


def test_a_step_that_leaves_nobody_is_drawn_all_the_same():
    steps = (FunnelStep("candidates", 3), FunnelStep("raced", 0, 1.0))
    svg = funnel_figure.figure(dataclasses.replace(RANKING, funnel=steps))
    assert "raced 0 in 1 s." in svg
