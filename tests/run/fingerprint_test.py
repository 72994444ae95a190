"""What makes a run another run."""

from __future__ import annotations

import dataclasses

from ncap_jax.options import RankConfig
from ncap_jax.run.fingerprint import differences, fixed


def test_equal_values_do_not_differ() -> None:
    facts = {"config": {"epochs": 3, "probe_widths": [8, 9]}, "models": {"a": None}}
    assert differences(facts, dict(facts), "run") == []


def test_differences_name_the_field_with_both_values() -> None:
    old = {"epochs": 3, "gone": 1, "deep": {"sha256": "a"}}
    new = {"epochs": 4, "new": 2, "deep": {"sha256": "b"}}
    assert differences(old, new, "config") == [
        'config.deep.sha256 was "a", is "b"',
        "config.epochs was 3, is 4",
        "config.gone was 1, is null",
        "config.new was null, is 2",
    ]


def test_long_values_are_cut() -> None:
    (text,) = differences("x" * 500, 1, "data")
    assert text == f'data was "{"x" * 58}…, is 1'


def test_what_may_change_between_calls_is_not_part_of_it() -> None:
    before = dataclasses.asdict(RankConfig())
    after = dataclasses.asdict(RankConfig(strategy="halving", workers=2, time_budget=60.0))
    assert fixed(before, "config") == fixed(after, "config")
    assert fixed(before, "config") != fixed({**before, "seed": 1}, "config")


def test_where_the_data_lie_is_not_part_of_it() -> None:
    """Pixels and labels are told by their hash; the way to them may change."""
    data = {
        "sha256": "a",
        "config": {"data_dir": "/tfds", "image_size": 9},
        "info": {"source": "image folder /photos"},
    }
    moved = {**data, "config": {"data_dir": None, "image_size": 9}, "info": {"source": "/copy"}}
    assert fixed(data, "data") == fixed(moved, "data")
    assert fixed({**data, "sha256": "b"}, "data") != fixed(data, "data")
    assert fixed({**data, "config": {"image_size": 8}}, "data") != fixed(data, "data")


def test_other_parts_are_compared_whole() -> None:
    models = {"strategy": None, "workers": None}  # a model may have any name
    assert fixed(models, "models") == models
    assert fixed("damaged", "config") == fixed("damaged", "data") == "damaged"
    assert fixed({"config": "damaged"}, "data") == {"config": "damaged"}
