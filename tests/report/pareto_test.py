"""The models that nobody beats at their price, and how they are drawn."""

from __future__ import annotations

import dataclasses
import math
import re

import matplotlib.figure
from hypothesis import given, settings
from hypothesis import strategies as st

from ncap_jax.report import pareto
from ncap_jax.report.pareto import FLOPS, LATENCY, PARAMETERS, Point
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.costs import cost, priced
from tests.support.pool import make_pool


def beats(one: Point, other: Point) -> bool:
    no_worse = one.cost <= other.cost and one.score >= other.score
    return no_worse and (one.cost < other.cost or one.score > other.score)


numbers = st.integers(1, 4).map(float)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_the_front_is_what_nobody_beats(pairs):
    found = [Point(i, str(i), cost, score) for i, (cost, score) in enumerate(pairs)]
    unbeaten = {(p.cost, p.score) for p in found if not any(beats(q, p) for q in found)}
    front = pareto.front(found)
    assert {(p.cost, p.score) for p in front} == unbeaten
    assert len(front) == len(unbeaten)
    assert [p.cost for p in front] == sorted(p.cost for p in front)
    for point in front:  # of equal points the first in the ranking
        same = [p for p in found if (p.cost, p.score) == (point.cost, point.score)]
        assert point.position == min(p.position for p in same)


def test_a_model_without_a_price_or_a_prediction_has_no_point():
    ranking = priced(rank_trajectories(make_pool(4), "digits"))
    first, second, third, last = ranking.models
    rows = (
        first,
        dataclasses.replace(second, cost=cost(None)),
        dataclasses.replace(third, predicted_accuracy=math.nan),
        last,
    )
    changed = dataclasses.replace(ranking, models=rows)
    found = pareto.points(changed, PARAMETERS)
    assert [(p.position, p.name, p.cost) for p in found] == [
        (0, first.name, 1e6),
        (3, last.name, 4e6),
    ]
    unranked = dataclasses.replace(first, rank=None)
    assert len(pareto.points(dataclasses.replace(ranking, models=(unranked,)), PARAMETERS)) == 0


def test_latency_is_drawn_where_it_was_measured():
    ranking = rank_trajectories(make_pool(3), "digits")
    assert pareto.axes_of(ranking) == []
    assert pareto.axes_of(priced(ranking)) == [PARAMETERS, FLOPS]
    measured = priced(ranking, measured=True)
    assert pareto.axes_of(measured) == [PARAMETERS, LATENCY]
    assert [p.cost for p in pareto.points(measured, LATENCY)] == [2.0, 4.0, 6.0]
    alone = priced(rank_trajectories(make_pool(1), "digits"))
    assert pareto.axes_of(alone) == []


def test_the_figure_numbers_the_front():
    """The first model is the smallest as well: nobody else is on the front."""
    ranking = priced(rank_trajectories(make_pool(3), "digits"))
    svg = pareto.figure(ranking, PARAMETERS)
    assert f"Not beaten at their price: {ranking.best.name}. The table" in svg
    assert "predicted accuracy (%)" in svg
    assert re.findall(r">(1|2|3)</text>", svg) == ["1"]
    assert re.findall(r">([\d.]+ [kM])</text>", svg)[:2] == ["1 M", "1.5 M"]
    turned = tuple(
        dataclasses.replace(row, cost=cost(10 ** (9 - place)))
        for place, row in enumerate(ranking.models)
    )
    svg = pareto.figure(dataclasses.replace(ranking, models=turned), PARAMETERS)
    assert sorted(re.findall(r">(1|2|3)</text>", svg)) == ["1", "2", "3"]


def test_names_from_outside_are_text():
    ranking = priced(rank_trajectories(make_pool(2), "digits"))
    evil = dataclasses.replace(ranking.models[0], name="$x^2$<script>")
    svg = pareto.figure(dataclasses.replace(ranking, models=(evil, ranking.models[1])), PARAMETERS)
    assert "<script>" not in svg
    assert "$x^2$&lt;script&gt;" in svg


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 9), st.floats(0.1, 5))
def test_an_axis_of_any_length_has_a_few_numbers(start, decades):
    axis = matplotlib.figure.Figure().add_subplot()
    axis.set_xscale("log")
    low, high = 10**start, 10 ** (start + decades)
    axis.set_xlim(low, high)
    pareto._ticks(axis.xaxis, [low, high])
    shown = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert len(shown) <= 9
    if decades >= 0.3:
        assert len(shown) >= 1
