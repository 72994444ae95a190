"""Which licences allow commercial use."""

from __future__ import annotations

import pytest

from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, licences


@pytest.mark.parametrize(
    "licence", ["Apache-2.0", "apache-2.0", "MIT", " bsd-3-clause ", "CC-BY-4.0"]
)
def test_what_allows_it(licence: str) -> None:
    assert licences.is_commercial(licence)


@pytest.mark.parametrize(
    "licence",
    ["", "cc-by-nc-4.0", "unknown", "other", "gemma", "dinov3-license", "apple-amlr",
     "see https://huggingface.co/timm/x", "not Apache-2.0"],
)  # fmt: skip
def test_what_does_not_or_is_for_its_reader_to_judge(licence: str) -> None:
    assert not licences.is_commercial(licence)


def test_the_zoo_but_for_squeezenet_whose_publisher_states_none() -> None:
    closed = [spec.name for spec in MODELS.values() if not licences.is_commercial(spec.licence)]
    assert closed == ["squeezenet"]


def test_in_words() -> None:
    spec = ModelSpec("a", build=print, input_size=8)
    assert licences.in_words(spec) == "a (no licence is stated)"
    assert licences.in_words(MODELS["resnet50"]) == "resnet50 (MIT)"
