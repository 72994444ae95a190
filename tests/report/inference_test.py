"""What the use of models costs, in words and rows."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax.report import inference
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.costs import cost, priced
from tests.support.pool import make_pool


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (7, "7"),
        (12.34, "12.3"),
        (999, "999"),
        (24_378, "24.4 k"),
        (999_999, "1.00 M"),
        (3_504_872, "3.50 M"),
        (569e6, "569 M"),
        (8.2e9, "8.20 G"),
        (1e15, "1000 T"),
    ],
)
def test_large_numbers_are_short(value, words):
    assert inference.short(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "0.5"), (1e3, "1 k"), (1.5e6, "1.5 M"), (2e13, "20 T")]
)
def test_round_numbers_stay_round(value, words):
    assert inference.round_number(value) == words


def test_the_smallest_within_a_point_is_named():
    ranking = priced(rank_trajectories(make_pool(4, epochs=12), "digits"))
    first, second, *_ = ranking.models
    assert inference.smallest(ranking) == (
        f"{first.name} is also the smallest within one point, with 1.00 M parameters."
    )
    near = dataclasses.replace(
        second, predicted_accuracy=first.predicted_accuracy - 0.009, std=0.02, cost=cost(24_378)
    )
    models = (first, near, *ranking.models[2:])
    predicted = f"{100 * near.predicted_accuracy:.1f} ± 2.0 %"
    assert inference.smallest(dataclasses.replace(ranking, models=models)) == (
        f"Smallest within one point of the first: {near.name} (24.4 k parameters), predicted "
        f"{predicted}."
    )
    assert inference.smallest(rank_trajectories(make_pool(2), "digits")) == ""
    alone = priced(rank_trajectories(make_pool(1), "digits"))
    assert alone.smallest is alone.best
    assert inference.smallest(alone) == ""


def test_rows_without_and_with_what_was_measured():
    ranking = rank_trajectories(make_pool(2), "digits")
    assert not inference.is_known(ranking)
    counted = priced(ranking)
    predicted = f"{100 * ranking.best.predicted_accuracy:.1f} ± {100 * ranking.best.std:.1f} %"
    assert inference.header(counted) == [
        "model", "rank", "predicted", "parameters", "FLOPs per image", "licence",
    ]  # fmt: skip
    assert inference.rows(counted)[0] == [
        ranking.best.name, "1", predicted, "1.00 M", "2.00 M", "Apache-2.0",
    ]  # fmt: skip
    assert "--measure_inference" in inference.note(counted)
    timed = priced(ranking, measured=True)
    assert inference.header(timed)[5:8] == [
        "latency, 1 image", "images/s, 64 at a time", "memory, 1 and 64",
    ]  # fmt: skip
    assert inference.rows(timed)[0][5:] == ["2 ms", "1.28 k", "5.00 MB / 50.0 MB", "Apache-2.0"]
    assert "--measure_inference" not in inference.note(timed)


def test_what_is_not_known_is_a_dash_and_says_why():
    ranking = priced(rank_trajectories(make_pool(2), "digits"), measured=True)
    nothing = dataclasses.replace(cost(None), flops=None, licence="", problem="ValueError: no")
    rows = (dataclasses.replace(ranking.models[0], cost=nothing), *ranking.models[1:])
    found = dataclasses.replace(ranking, models=rows)
    cells = inference.rows(found)[0][3:]
    assert cells == ["–", "–", "–", "–", "– / –", "not known"]
    assert f"Not found: {rows[0].name}: ValueError: no." in inference.note(found)
