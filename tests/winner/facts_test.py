"""What model.json may say, and what is refused, by name."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from ncap_jax import errors
from ncap_jax.winner import facts as fact
from ncap_jax.winner.facts import Architecture, ModelFacts, Origin, Preprocessing
from tests.support import fuzzing

FACTS = ModelFacts(
    name="mobilenet",
    architecture=Architecture("zoo", "mobilenet"),
    preprocessing=Preprocessing("tf", 224, (200, 256), 3),
    class_names=("Katze", "Hündin", "🦊"),
    temperature=1.5,
    metrics={"validation": {"accuracy": 0.9}, "test": {"accuracy": 1, "support": [1, 2]}},
    chosen={"candidates": ["a", "b"]},
    data={"name": "pets"},
    origin=Origin("file.h5", "0" * 64, "MIT", "a paper"),
    versions={"jax": "0.7"},
    created="2026-01-02T03:04:05+00:00",
    sha256="1" * 64,
)
COPY = "Copy the package again, or make it again"


def changed(path: str, value: Any) -> str:
    """The text of model.json with one field changed; without it if the value is `...`."""
    content = json.loads(FACTS.to_json())
    *above, last = path.split(".")
    fields = content
    for name in above:
        fields = fields[name]
    fields[last] = value
    if value is ...:
        del fields[last]
    return json.dumps(content)


def test_what_is_written_is_what_is_read():
    assert ModelFacts.from_json(FACTS.to_json()) == FACTS
    assert json.loads(FACTS.to_json())["schema"] == 1


def test_facts_without_a_digest_can_be_checked_too():
    unsaved = dataclasses.replace(FACTS, sha256="")
    assert unsaved.checked() == unsaved


def test_accuracies():
    assert FACTS.accuracy("test") == 1.0
    assert FACTS.accuracy("training") is None


def test_fields_of_later_versions_are_ignored():
    text = changed("origin.later", {"a": 1}).replace('"schema"', '"later": [1], "schema"')
    assert ModelFacts.from_json(text) == FACTS


@pytest.mark.parametrize("name", ["temperature", "metrics", "origin", "origin.licence", "created"])
def test_fields_that_may_be_missing(name: str):
    ModelFacts.from_json(changed(name, ...))


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("name", "../up", "name of model.json is '../up', not a name of letters, digits and "),
        ("name", ["a"], "name of model.json is ['a'], not a name of letters"),
        ("architecture", "zoo", "architecture of model.json is 'zoo', not an object"),
        ("architecture.kind", "pickle", "architecture.kind of model.json is 'pickle', not one of"),
        ("architecture.kind", [], "architecture.kind of model.json is [], not one of zoo, hub,"),
        ("architecture.name", "a/b", "architecture.name of model.json is 'a/b', not a name of"),
        ("preprocessing.mode", 3, "preprocessing.mode of model.json is 3, not text"),
        ("preprocessing.input_size", 0, "preprocessing.input_size of model.json is 0, not a whole"),
        ("preprocessing.input_size", True, "preprocessing.input_size of model.json is True, not"),
        ("preprocessing.input_size", 10**9, "preprocessing.input_size of model.json is 1000000000"),
        ("preprocessing.image_size", [8], "preprocessing.image_size of model.json is [8], not ["),
        ("preprocessing.image_size", [16384, 16384], "preprocessing.image_size of model.json is "),
        ("preprocessing.channels", 4, "preprocessing.channels of model.json is 4, not 1 or 3"),
        ("preprocessing.channels", 1.0, "preprocessing.channels of model.json is 1.0, not 1 or 3"),
        ("class_names", ["a"], "class_names of model.json is ['a'], not a list of 2 to 100000"),
        ("class_names", ["a", "a"], "class_names of model.json is ['a', 'a'], not a list of 2 to"),
        ("class_names", ["a", [1]], "class_names of model.json is ['a', [1]], not a list of 2"),
        ("dtype", "object", "dtype of model.json is 'object', not one of float32, bfloat16"),
        ("head", "probe", "head of model.json is 'probe', not linear"),
        ("temperature", 0, "temperature of model.json is 0, not a number from 0.001 to 1000"),
        ("temperature", "1", "temperature of model.json is '1', not a number from 0.001 to 1000"),
        ("metrics", [], "metrics of model.json is [], not an object of objects"),
        ("metrics.test", 1, "metrics of model.json is {'test': 1, "),
        ("metrics.test.accuracy", 2, "metrics of model.json is {"),
        ("metrics.test.accuracy", "high", "metrics of model.json is {"),
        ("data", [], "data of model.json is [], not an object"),
        ("origin.licence", None, "origin.licence of model.json is None, not text"),
        ("versions.jax", 7, "versions of model.json is {'jax': 7}, not an object of texts"),
        ("sha256", "", "sha256 of model.json is '', not 64 hexadecimal digits"),
        ("sha256", "1" * 63 + "Z", "sha256 of model.json is '1111"),
        ("class_names", ..., "model.json has no field class_names"),
        ("preprocessing.mode", ..., "model.json has no field preprocessing.mode"),
    ],
)
def test_wrong_fields_are_refused_by_name(path: str, value: Any, cause: str):
    with pytest.raises(errors.PackageError) as caught:
        ModelFacts.from_json(changed(path, value))
    assert caught.value.cause.startswith(cause)
    assert caught.value.remedy == COPY


@pytest.mark.parametrize("schema", [2, "1", 1.0, None, ...])
def test_another_schema(schema: Any):
    with pytest.raises(errors.PackageError) as caught:
        ModelFacts.from_json(changed("schema", schema))
    shown = None if schema is ... else schema
    assert caught.value.cause == (
        f"model.json has schema {shown!r}, but this version of ncap_jax reads schema 1"
    )
    assert caught.value.remedy == "Use the version that wrote it"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "model.json is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "model.json is [1], not an object"),
        ("[" * 100_000, "model.json is not valid JSON: "),
        (changed("data.size", float("nan")), "model.json is not valid JSON: "),
        (changed("data.size", 0).replace('"size": 0', '"size": 1e999'), "model.json is not valid"),
        (changed("data.name", "\ud800"), "model.json is not valid JSON: "),
    ],
)
def test_text_that_is_no_strict_json(text: str, cause: str):
    with pytest.raises(errors.PackageError) as caught:
        ModelFacts.from_json(text)
    assert caught.value.cause.startswith(cause)
    assert caught.value.remedy == COPY


GENUINE = FACTS.to_json().encode()


@fuzzing.fuzz(fuzzing.mutated(GENUINE) | fuzzing.with_json(GENUINE), examples=15)
def test_any_damage_is_refused_or_harmless(value: bytes, tmp_path: pathlib.Path) -> None:
    try:
        read = ModelFacts.from_json(value.decode("utf-8", "replace"))
    except errors.PackageError:
        return
    assert read.checked() == read
    assert read.preprocessing.channels in (1, 3)
    assert read.preprocessing.image_size[0] * read.preprocessing.image_size[1] <= fact.MAX_PIXELS
