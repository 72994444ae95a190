"""The table of published accuracies can be made again, and its text is read as it was written."""

from __future__ import annotations

import json
import pathlib

from experiments import catalogue_table as study
from ncap_jax.zoo.catalogue import FILE
from tests.support.torch_nets import needs_timm

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_text_is_the_table_a_line_a_family() -> None:
    text = FILE.read_text(encoding="utf-8")
    made = json.loads(text)
    assert study.written(made) == text
    assert text.count("\n") == len(made["timm"]) + 7
    assert study.summary(made) in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@needs_timm
def test_the_table_is_what_timm_publishes(shared_data: pathlib.Path) -> None:
    assert study.content(shared_data / "catalogue") == json.loads(FILE.read_text(encoding="utf-8"))
