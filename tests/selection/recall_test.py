"""The choice of a short pool: ranks of what is known, families, failures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ncap_jax.options import Limits
from ncap_jax.selection import recall
from ncap_jax.selection.recall import Candidate, choose

ALL = Limits()


def test_shares_above_count_ties_half_and_know_nothing_of_the_unknown():
    found = recall.shares_above([3.0, 1.0, 2.0, 2.0, math.nan])
    assert found == pytest.approx([0, 1, 0.5, 0.5, math.nan], nan_ok=True)
    assert np.isnan(recall.shares_above([math.nan, 7.0])).all()  # one value ranks nothing
    assert recall.shares_above([-math.inf, 1.0, -math.inf]) == pytest.approx([0.75, 0, 0.75])


def pool() -> list[Candidate]:
    """By the prior a, b, c, d; by both scores d, c, b, a, but b is not known there."""
    scores = [{"logme": i, "linear_probe": 2 * i} for i in range(4)]
    known = [
        Candidate(name, prior=4.0 - i, scores=scores[i] if name != "b" else {})
        for i, name in enumerate("abcd")
    ]
    return known


@pytest.mark.parametrize(
    ("parts", "order"),
    [
        (("prior",), "abcd"),
        (("features",), "dbca"),
        (("prior", "features"), "bdca"),  # a tie of b and d: the first given
        ((), "abcd"),
    ],
)
def test_parts_can_be_switched_off(parts, order):
    limits = Limits(recall_parts=parts)
    assert choose(pool(), 4, limits).chosen == tuple(order)
    found = choose(pool(), 2, limits)
    assert found.chosen == tuple(order[:2])
    assert [each.name for each in found.left_out] == list(order[2:])
    assert found.left_out[0].reason == "place 3 of 4 in the recall, which keeps 2"
    assert {each.step for each in found.left_out} == {"recall"}


def test_the_merit_is_the_mean_of_the_prior_and_of_each_score_that_is_known():
    values = recall.merits(pool(), ("prior", "features"))
    expected = [(0 + 1 + 1) / 3, 1 / 3, (2 / 3 + 0.5 + 0.5) / 3, (1 + 0 + 0) / 3]
    assert values == pytest.approx(expected)
    # Of e nothing is known, and of f one value that no other has.
    others = [*pool(), Candidate("e"), Candidate("f", scores={"new": 1.0})]
    assert recall.merits(others, ("prior", "features"))[4:] == pytest.approx([0.5, 0.5])


def test_what_nothing_is_published_of_is_not_held_back():
    """Were it taken for the middle, d would be first, whose prior is the best of all."""
    scores = {"logme": 1.0, "linear_probe": 1.0}
    known = [
        Candidate("specialist", scores=dict.fromkeys(scores, 9.0)),
        *(
            Candidate(name, prior=-float(i), scores=dict.fromkeys(scores, 8.0 - i))
            for i, name in enumerate("dcbaefghij")
        ),
    ]
    assert choose(known, 1, ALL).chosen == ("specialist",)


def test_random_networks_are_worth_a_look_only_where_others_are_too_few():
    drawn = [Candidate("r", prior=-math.inf), Candidate("s", prior=-math.inf)]
    others = [Candidate("a", prior=1.0), Candidate("b"), Candidate("c", prior=2.0, failure="torn")]
    both = frozenset({"r", "s"})
    assert recall.not_worth_a_look([*drawn, *others], 2, ("prior", "features")) == both
    assert recall.not_worth_a_look([*drawn, *others], 3, ("prior", "features")) == frozenset()
    assert recall.not_worth_a_look([*drawn, *others], 2, ("features",)) == frozenset()


def test_relatives_make_room_as_long_as_there_are_others():
    families = {"a": "x", "b": "x", "c": "x", "d": "", "e": "", "f": "y"}
    named = [Candidate(name, family) for name, family in families.items()]
    limits = Limits(recall_family=1, recall_parts=("diversity",))
    found = choose(named, 3, limits)
    assert found.chosen == ("a", "d", "e")  # those without a family have no relatives
    reasons = {each.name: each.reason for each in found.left_out}
    passed = "place 2 of 6 in the recall, which keeps 3, at most 1 of one family (x)"
    assert reasons["b"] == passed
    assert reasons["f"] == "place 6 of 6 in the recall, which keeps 3"
    assert choose(named, 5, limits).chosen == ("a", "b", "d", "e", "f")  # filled up
    off = Limits(recall_family=1, recall_parts=())
    assert choose(named, 3, off).chosen == ("a", "b", "c")


def test_who_failed_is_never_chosen():
    broken = [Candidate("a", failure="no file"), Candidate("b")]
    found = choose(broken, 2, ALL)
    assert found.chosen == ("b",)
    (only,) = found.left_out
    assert (only.name, only.step) == ("a", "failed")
    assert only.reason == "it failed before training: no file"
    assert choose(broken[:1], 2, ALL).chosen == ()


@pytest.mark.parametrize(
    ("wanted", "candidates", "kept"),
    [(None, 24, 0), (None, 25, 12), (0, 25, 0), (3, 4, 3), (3, 3, 0), (30, 25, 0)],
)
def test_how_many_are_kept(wanted, candidates, kept):
    assert recall.kept(Limits(recall=wanted), candidates) == kept


def test_the_choice_does_not_depend_on_the_order_of_candidates_that_differ():
    known = [each for each in pool() if each.scores]
    chosen = {choose(list(order), 2, ALL).chosen for order in itertools.permutations(known)}
    assert chosen == {("d", "c")}


def test_a_long_list_is_chosen_from_in_a_moment():
    rng = np.random.default_rng(0)
    many = [
        Candidate(f"m{i}", f"f{i % 40}", float(value)) for i, value in enumerate(rng.random(1500))
    ]
    found = choose(many, 12, ALL)
    assert len(found.chosen) == 12
    assert len(found.left_out) == 1488


@pytest.mark.parametrize(
    ("wanted", "budget", "kept"), [(None, 599, 0), (None, 600, 12), (5, 60, 5)]
)
def test_a_short_time_is_for_training(wanted, budget, kept):
    limits = Limits(recall=wanted, time_budget=budget, recall_seconds=600)
    assert recall.kept(limits, 100) == kept
