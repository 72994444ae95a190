"""What makes a run another run."""

from __future__ import annotations

import dataclasses
from typing import Any

from ncap_jax.options import RankConfig
from ncap_jax.run.fingerprint import ADDED, conflicts, differences, fixed, grown


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


def test_what_was_made_before_an_option_is_as_if_it_had_its_value() -> None:
    now = dataclasses.asdict(RankConfig())
    before = {name: value for name, value in now.items() if name != "metric"}
    assert fixed(before, "config") == fixed(now, "config")
    assert fixed(before, "config") != fixed({**now, "metric": "macro_f1"}, "config")


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


FACTS = {
    "config": dataclasses.asdict(RankConfig()),
    "models": {"a": {"weights_sha256": "1"}, "b": {"weights_sha256": "2"}},
    "data": {"sha256": "3", "config": {"data_dir": None}},
    "command": "python -m ncap_jax",
    "threads": 2,
}


def changed(**changes: object) -> dict[str, Any]:
    return {**FACTS, "config": {**FACTS["config"], **changes}}


def test_epochs_predictors_and_models_may_change_in_a_folder() -> None:
    grows = {"epochs": 9, "predictor": "power_law", "metric": "macro_f1", "workers": 2}
    assert conflicts(FACTS, changed(**grows)) == []
    assert conflicts(FACTS, {**FACTS, "models": {"c": {"weights_sha256": "4"}}}) == []


def test_a_recipe_weights_and_data_may_not() -> None:
    assert conflicts(FACTS, changed(epochs=9, seed=1, head="probe")) == [
        'config.head was "linear", is "probe"',
        "config.seed was 0, is 1",
    ]
    other = {**FACTS, "models": {"a": {"weights_sha256": "9"}}, "data": {"sha256": "9"}}
    assert conflicts(FACTS, other) == [
        'models.a.weights_sha256 was "1", is "9"',
        "data.config was {}, is null",
        'data.sha256 was "3", is "9"',
    ]


def test_weights_of_a_model_that_was_set_aside_are_compared_too() -> None:
    held = grown(FACTS, {**FACTS, "models": {"a": {"weights_sha256": "1"}}})
    assert held["set_aside"] == {"b": {"weights_sha256": "2"}}
    back = {**FACTS, "models": {"b": {"weights_sha256": "9"}}}
    assert conflicts(held, back) == ['models.b.weights_sha256 was "2", is "9"']


def test_a_folder_says_what_it_holds_and_how_it_was_begun() -> None:
    assert grown(FACTS, {**FACTS, "command": "again", "threads": 8}) == FACTS
    asked = {**changed(epochs=9, executor="processes"), "command": "longer", "threads": 8}
    held = {**changed(epochs=9), "command": "longer", "set_aside": {}}
    assert grown(FACTS, asked) == held
    assert grown(held, {**FACTS, "threads": 8}) == {**FACTS, "set_aside": {}}
    reordered = dict(reversed(FACTS["models"].items()))
    assert list(grown(FACTS, {**FACTS, "models": reordered})["models"]) == ["b", "a"]


def test_a_run_of_an_earlier_version_did_what_new_options_default_to():
    now = dataclasses.asdict(RankConfig())
    before = {name: value for name, value in now.items() if name not in ADDED}
    assert fixed(before, "config") == fixed(now, "config")
    split = dataclasses.asdict(RankConfig(validation_splits=2))
    assert differences(fixed(before, "config"), fixed(split, "config"), "config") == [
        "config.validation_splits was 1, is 2"
    ]
