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
from tests.support.winners import figures

FACTS = ModelFacts(
    name="mobilenet",
    architecture=Architecture("zoo", "mobilenet"),
    preprocessing=Preprocessing("tf", 224, (200, 256), 3),
    class_names=("Katze", "Hündin", "🦊"),
    temperature=1.5,
    metrics={"test": figures(2, 0, ("Katze", "Hündin", "🦊"))},
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


def test_many_classes_are_one_line():
    names = tuple(f"class {number}" for number in range(101))
    facts = dataclasses.replace(FACTS, class_names=names, metrics={})
    assert facts.to_json().count("\n") == 1
    assert ModelFacts.from_json(facts.to_json()) == facts


def test_accuracies():
    assert FACTS.accuracy("test") == 1.0
    assert FACTS.accuracy("training") is None


@pytest.mark.parametrize("name", ["temperature", "metrics", "origin", "origin.licence", "created"])
def test_fields_that_may_be_missing(name: str):
    ModelFacts.from_json(changed(name, ...))


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("name", "../up", "name is '../up', not a name of letters, digits and _ . + -"),
        ("name", ["a"], "name is ['a'], not text"),
        ("architecture", "zoo", "architecture is 'zoo', not an object"),
        (
            "architecture.kind",
            "x",
            "architecture.kind is 'x', not 'zoo' or 'hub' or 'timm' or 'custom'",
        ),
        (
            "architecture.kind",
            [],
            "architecture.kind is [], not 'zoo' or 'hub' or 'timm' or 'custom'",
        ),
        ("architecture.name", "", "architecture.name is '', not a name of letters, digits and"),
        ("preprocessing.mode", 3, "preprocessing.mode is 3, not text"),
        ("preprocessing.input_size", 0, "preprocessing.input_size is 0, not a number from 1 to"),
        ("preprocessing.input_size", True, "preprocessing.input_size is True, not a whole number"),
        ("preprocessing.input_size", 10**9, "preprocessing.input_size is 1000000000, not a numb"),
        ("preprocessing.image_size", [8], "preprocessing.image_size has 1 items, not 2"),
        ("preprocessing.image_size", [0, 9], "preprocessing.image_size is (0, 9), not height and"),
        ("preprocessing.image_size", [8192] * 2, "preprocessing.image_size is (8192, 8192), not"),
        ("preprocessing.channels", 4, "preprocessing.channels is 4, not 1 or 3"),
        ("class_names", ["a"], "class_names is ('a',), not 2 to 100000 names, none of them"),
        ("class_names", ["a", "a"], "class_names is ('a', 'a'), not 2 to 100000 names, none of"),
        ("class_names", ["a", [1]], "class_names[1] is [1], not text"),
        ("dtype", "object", "dtype is 'object', not one of float32, bfloat16"),
        ("head", "probe", "head is 'probe', not 'linear'"),
        ("temperature", 0, "temperature is 0.0, not a number from 0.001 to 1000"),
        ("temperature", "1", "temperature is '1', not a finite number"),
        ("metrics.test", 1, "metrics.test is 1, not an object"),
        ("metrics.test.accuracy", 0.5, "metrics.test.accuracy contradicts the other figures"),
        ("data", [], "data is [], not an object"),
        ("origin.licence", None, "origin.licence is None, not text"),
        ("origin.later", 1, "origin.later is unknown"),
        ("versions.jax", 7, "versions.jax is 7, not text"),
        ("sha256", "", "sha256 is '', not 64 hexadecimal digits"),
        ("sha256", "1" * 63 + "Z", "sha256 is '1111111111"),
        ("class_names", ..., "class_names is missing"),
        ("preprocessing.mode", ..., "preprocessing.mode is missing"),
        ("later", {}, "later is unknown"),
    ],
)
def test_wrong_fields_are_refused_by_name(path: str, value: Any, cause: str):
    with pytest.raises(errors.PackageError) as caught:
        ModelFacts.from_json(changed(path, value))
    assert caught.value.cause.startswith(f"model.json: {cause}")
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
    assert ModelFacts.from_json(read.to_json()) == read
    assert read.preprocessing.channels in (1, 3)
    assert read.preprocessing.image_size[0] * read.preprocessing.image_size[1] <= fact.MAX_PIXELS
