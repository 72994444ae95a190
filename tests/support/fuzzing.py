"""Random and damaged input: a property over many examples, and mutations of genuine files."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncap_jax.finetune import trajectory_files
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import ledger
from ncap_jax.types import EpochRecord

QUICK, LONG = 60, 3000
# This many examples instead of LONG, drawn anew:
# NCAP_FUZZ=20000 pytest -m slow tests/robustness/fuzz*
ANEW = int(os.environ.get("NCAP_FUZZ", 0))

Strategy = st.SearchStrategy[Any]


def fuzz(strategy: Strategy, examples: int = QUICK, long: int = LONG) -> Callable[..., Any]:
    """A property over a strategy, the same examples in every run; `long` when slow (see `ANEW`)."""

    def decorate(function: Callable[[Any, pathlib.Path], None]) -> Callable[..., None]:
        many = pytest.param(ANEW * long // LONG or long, marks=pytest.mark.slow)

        @pytest.mark.parametrize("count", [examples, many])
        def test(count: int, tmp_path: pathlib.Path) -> None:
            @bounded(count)
            @given(value=strategy)
            def run(value: Any) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(value, tmp_path)

            run()

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate


def bounded(count: int) -> settings:
    """Hypothesis with this many examples."""
    return settings(
        max_examples=count,
        derandomize=not ANEW,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def mutated(genuine: bytes) -> Strategy:
    """Bytes with a few changed, removed or inserted; or cut off; or others altogether."""
    place = st.integers(0, max(0, len(genuine) - 1))
    edits = st.lists(st.tuples(place, st.binary(max_size=6), st.integers(0, 4)), max_size=4)

    def apply(changes: list[tuple[int, bytes, int]]) -> bytes:
        content = bytearray(genuine)
        for at, new, removed in changes:
            content[at : at + removed] = new
        return bytes(content)

    return st.one_of(edits.map(apply), place.map(lambda at: genuine[:at]), st.binary(max_size=60))


def with_json(genuine: bytes | str) -> Strategy:
    """A JSON object with one of its fields replaced by any JSON."""
    fields = json.loads(genuine)

    def put(name: str, value: Any) -> bytes:
        return json.dumps({**fields, name: value}).encode() + b"\n"

    return st.builds(put, st.sampled_from([*fields, "unknown"]), JSON)


def lines(genuine: bytes) -> Strategy:
    """A file of up to three mutations of a line."""
    return st.lists(mutated(genuine) | with_json(genuine), max_size=3).map(b"".join)


RECORD = EpochRecord(1, 0.5, 0.5, 0.5, 0.5, 0.7, {"signed": (1.0,)}, {"signed": ("ok",)}, 1.0, 0.1)
LINE = trajectory_files.line(RECORD).encode()
ENTRY = json.dumps(dataclasses.asdict(ledger.Entry("a", "ok", "", 1.0, 2))).encode() + b"\n"
# Of a run.json.
FACTS = {
    "schema": 1,
    "config": dataclasses.asdict(RankConfig()),
    "models": {"tiny_plain": {"weights_sha256": "0"}},
    "data": {"num_validation": 10, "config": dataclasses.asdict(DataConfig())},
    "command": "python -m ncap_jax --models=tiny_plain --dataset=digits",
}
