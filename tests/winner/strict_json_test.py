"""Records from JSON: what fits is read, what does not is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ncap_jax.winner.strict_json import read_record


@dataclass(frozen=True)
class Inner:
    share: float
    note: str | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["zoo", "hub"]
    pair: tuple[float, float]
    items: tuple[Inner, ...]
    by_name: Mapping[str, int]
    ready: bool = False
    inner: Inner | None = None
    free: Any = None
    counts: tuple[int, ...] = ()


SOUND: dict[str, Any] = {
    "count": 3,
    "kind": "zoo",
    "pair": [0.5, 1],
    "items": [{"share": 0.25}, {"share": 1.0, "note": "x"}],
    "by_name": {"jax": 1},
    "ready": True,
    "inner": {"share": 0.0, "note": None},
    "free": [1, {"a": None}],
    "counts": [7, 8],
}


def test_what_fits_is_read():
    assert read_record(Outer, SOUND) == Outer(
        count=3,
        kind="zoo",
        pair=(0.5, 1.0),
        items=(Inner(0.25), Inner(1.0, "x")),
        by_name={"jax": 1},
        ready=True,
        inner=Inner(0.0),
        free=[1, {"a": None}],
        counts=(7, 8),
    )
    assert type(read_record(Outer, SOUND).pair[1]) is float


def test_a_field_with_a_default_may_be_left_out():
    fields = {key: SOUND[key] for key in ("count", "kind", "pair", "items", "by_name")}
    assert read_record(Outer, fields) == Outer(
        3, "zoo", (0.5, 1.0), (Inner(0.25), Inner(1.0, "x")), {"jax": 1}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 3.0}, "model.count is 3.0, not a whole number"),
        ({"count": True}, "model.count is True, not a whole number"),
        ({"ready": 1}, "model.ready is 1, not true or false"),
        ({"kind": "mine"}, "model.kind is 'mine', not 'zoo' or 'hub'"),
        ({"kind": ["zoo"]}, "model.kind is ['zoo'], not 'zoo' or 'hub'"),
        ({"pair": [1.0]}, "model.pair has 1 items, not 2"),
        ({"pair": [1.0, "2"]}, "model.pair[1] is '2', not a finite number"),
        ({"pair": [1.0, float("nan")]}, "model.pair[1] is nan, not a finite number"),
        ({"pair": [1.0, float("inf")]}, "model.pair[1] is inf, not a finite number"),
        ({"pair": [1.0, None]}, "model.pair[1] is None, not a finite number"),
        ({"pair": [1.0, 10**400]}, "not a finite number"),
        ({"items": {"share": 1.0}}, "model.items is {'share': 1.0}, not a list"),
        ({"items": [{}]}, "model.items[0].share is missing"),
        ({"items": [{"share": 1.0, "note": 4}]}, "model.items[0].note is 4, not text"),
        ({"items": [{"share": 1.0, "a b": 4}]}, "model.items[0].'a b' is unknown"),
        ({"by_name": []}, "model.by_name is [], not an object"),
        ({"by_name": {"jax": "1"}}, "model.by_name.jax is '1', not a whole number"),
        ({"counts": [7, True]}, "model.counts[1] is True, not a whole number"),
        ({"counts": [7, "8"]}, "model.counts[1] is '8', not a whole number"),
        ({"counts": "78"}, "model.counts is '78', not a list"),
        ({"inner": 5}, "model.inner is 5, not an object"),
        ({"other": 5}, "model.other is unknown"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read_record(Outer, {**SOUND, **change}, "model")
    assert str(refused.value).endswith(message)


def test_what_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r"^the document is \[\], not an object$"):
        read_record(Outer, [])
    without = {key: value for key, value in SOUND.items() if key != "count"}
    with pytest.raises(ValueError, match=r"^count is missing$"):
        read_record(Outer, without)


def test_a_union_takes_what_one_of_its_types_takes():
    @dataclass(frozen=True)
    class Either:
        value: int | str | None

    # The types of a class in a function are not found by name.
    Either.__annotations__["value"] = int | str | None
    assert [read_record(Either, {"value": v}).value for v in (1, "1", None)] == [1, "1", None]
    with pytest.raises(ValueError, match=r"^value is 1\.5, not text$"):
        read_record(Either, {"value": 1.5})
