"""The lists of models: the rules, the document, and that they can be made again."""

from __future__ import annotations

import json
import pathlib

from experiments import model_lists as study
from ncap_jax.zoo.lists import FILE
from tests.support.torch_nets import needs_timm

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTENT = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_document_shows_the_lists() -> None:
    models = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert study.model_table(CONTENT) in models
    assert CONTENT["date"] in models


def test_every_model_obeys_its_rule() -> None:
    for name, rule in study.RULES.items():
        entry = CONTENT["lists"][name]
        low, high = rule.parameters
        assert entry["about"] == rule.about
        assert len(entry["models"]) == rule.length
        assert len({row["family"] for row in entry["models"]}) == rule.length
        for row in entry["models"]:
            assert low < row["parameters"] <= high
            assert row["multiplications"] <= rule.multiplications
            assert row["size"] <= study.LARGEST_SIDE
        tops = [row["top1"] for row in entry["models"]]
        assert tops == sorted(tops, reverse=True)


def test_the_best_of_a_family_is_taken_and_of_a_kind_the_best_families() -> None:
    rows = [
        study.Row("a", "resnet", 80.0, 9.0, 1.0, 224),
        study.Row("b", "resnet", 81.0, 9.0, 1.0, 224),
        study.Row("c", "regnet", 79.0, 9.0, 1.0, 224),
        study.Row("d", "densenet", 78.0, 9.0, 1.0, 224),
        study.Row("e", "deit", 70.0, 9.0, 1.0, 224),
        study.Row("f", "convnext", 99.0, 99.0, 1.0, 224),
    ]
    rule = study.Rule("", (0, 32), 8, 12)
    assert [row.name for row in study.chosen(rule, rows, kinds=False)] == ["b", "c", "d", "e"]
    assert [row.name for row in study.chosen(rule, rows, kinds=True)] == ["b", "c", "e"]


@needs_timm
def test_the_lists_are_what_the_tables_give(shared_data: pathlib.Path) -> None:
    assert study.content(shared_data / "catalogue") == CONTENT
