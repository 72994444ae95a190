"""Whose states are kept: few, and those that may be wanted."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax.options import RankConfig
from ncap_jax.selection import keeping
from ncap_jax.types import EpochRecord, RankedModel, Ranking, Trajectory

NAN = float("nan")


def ended(name: str, accuracy: float, status: str = "ok") -> Trajectory:
    """A trajectory of two epochs that reached an accuracy."""
    records = tuple(EpochRecord(epoch, 1.0, accuracy, 1.0, accuracy) for epoch in range(3))
    return Trajectory(name, "linear", records, status)


def row(number: int, *, listed: bool, rank: int | None = 0) -> RankedModel:
    """The model that stands at a place of the table."""
    return RankedModel(
        f"m{number}",
        "ok",
        number if rank == 0 else rank,
        *(0.5, 0.1, 0.5, 0.5, 2, (), (), 1.0),
        shortlisted=listed,
    )


def ranking(listed: set[int], keep_states: int = 2, models: int = 9) -> Ranking:
    """Nine models of which some are on the shortlist."""
    rows = tuple(row(number, listed=number in listed) for number in range(1, models + 1))
    return Ranking("data", RankConfig(keep_states=keep_states), rows)


@pytest.mark.parametrize(
    ("listed", "keep_states", "last"),
    [(set(), 2, 2), ({2, 3}, 2, 3), ({2, 3, 4, 5, 6, 7}, 2, 5), (set(), 7, 7), ({2}, 0, 0)],
)
def test_the_first_and_the_shortlist_are_kept_within_bounds(listed, keep_states, last):
    names = tuple(f"m{number}" for number in range(1, last + 1))
    assert keeping.kept(ranking(listed, keep_states)) == names


def test_models_without_a_rank_are_not_kept():
    failed = dataclasses.replace(ranking(set()), models=(row(1, listed=False, rank=None),))
    assert keeping.kept(failed) == ()


@pytest.mark.parametrize(("keep_states", "most"), [(0, 0), (1, 5), (5, 5), (8, 8)])
def test_how_many_are_kept_at_most(keep_states, most):
    assert keeping.most_states(RankConfig(keep_states=keep_states)) == most


@pytest.mark.parametrize("head", ["probe", "trainable_probe"])
def test_of_probes_none_is_kept(head):
    config = RankConfig(head=head)
    assert keeping.most_states(config) == 0
    assert keeping.leaders([ended("a", 0.5)], config) == ()


def test_until_the_end_the_leaders_are_kept():
    pool = [ended(f"m{number}", number / 10) for number in (3, 1, 7, 5, 2, 6, 4)]
    pool.append(ended("broken", NAN, "diverged"))
    assert keeping.leaders(pool, RankConfig()) == ("m7", "m6", "m5", "m4", "m3")
    assert keeping.leaders(pool, RankConfig(keep_states=0)) == ()
    assert keeping.leaders([], RankConfig()) == ()


def test_without_a_shortlist_equal_models_are_kept():
    plain = ranking(set())
    rows = tuple(
        dataclasses.replace(row, tied_with_best=row.rank in (2, 3)) for row in plain.models
    )
    assert keeping.kept(dataclasses.replace(plain, models=rows)) == ("m1", "m2", "m3")
