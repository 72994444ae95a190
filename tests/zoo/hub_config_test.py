"""A stranger's `config.json`: every field is what it may be, or is named."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from ncap_jax import errors
from ncap_jax.zoo import hub_config

NAME = "hf://a/b"
SIZE = "[3, side, side] with a side from 4 to 4096 pixels"
MEAN = "a list of three numbers from -1000 to 1000"
STD = "a list of three positive numbers up to 1000"
DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]


def test_what_is_read_of_a_sound_file(tmp_path: pathlib.Path):
    pixels = {"input_size": [3, 224, 224], "mean": [0, 0.5, 1], "std": [0.1, 1, 2], "crop_pct": 1}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architecture": "vgg16", "pretrained_cfg": pixels, "x": DEEP}))
    del pixels["crop_pct"]
    assert hub_config.read(path, NAME) == {"architecture": "vgg16", "pretrained_cfg": pixels}


def test_null_is_as_good_as_nothing():
    fields = {"architecture": None, "pretrained_cfg": {"input_size": None, "mean": None}}
    assert hub_config.check(fields, NAME) == {"pretrained_cfg": {}}
    assert hub_config.check({"pretrained_cfg": None}, NAME) == {}


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ([], "the whole file is [], not an object"),
        ("vgg16", "the whole file is 'vgg16', not an object"),
        ({"architecture": ["vgg16"]}, "architecture is ['vgg16'], not text"),
        ({"architecture": {}}, "architecture is {}, not text"),
        ({"architecture": 16}, "architecture is 16, not text"),
        ({"architecture": DEEP}, "architecture is [[[[[[[...]]]]]]], not text"),
        ({"pretrained_cfg": "timm"}, "pretrained_cfg is 'timm', not an object"),
        ({"pretrained_cfg": [1]}, "pretrained_cfg is [1], not an object"),
        *(
            (
                {"pretrained_cfg": {field: value}},
                f"pretrained_cfg.{field} is {shown}, not {allowed}",
            )
            for field, value, shown, allowed in [
                ("input_size", 224, "224", SIZE),
                ("input_size", [224], "[224]", SIZE),
                ("input_size", ["3", "224", "224"], "['3', '224', '224']", SIZE),
                ("input_size", [3, -5, -5], "[3, -5, -5]", SIZE),
                ("input_size", [3, 10**9, 10**9], "[3, 1000000000, 1000000000]", SIZE),
                ("input_size", [3, 224, 192], "[3, 224, 192]", SIZE),
                ("input_size", [1, 28, 28], "[1, 28, 28]", SIZE),
                ("input_size", [3, 8.5, 8.5], "[3, 8.5, 8.5]", SIZE),
                ("input_size", [3, True, True], "[3, True, True]", SIZE),
                ("input_size", {"3": 1}, "{'3': 1}", SIZE),
                ("input_size", [], "[]", SIZE),
                ("mean", 0.5, "0.5", MEAN),
                ("mean", [0.5, 0.5], "[0.5, 0.5]", MEAN),
                ("mean", "0.5", "'0.5'", MEAN),
                ("mean", [0.5, None, 0.5], "[0.5, None, 0.5]", MEAN),
                ("mean", [float("nan"), 0, 0], "[nan, 0, 0]", MEAN),
                ("mean", [float("inf"), 0, 0], "[inf, 0, 0]", MEAN),
                ("mean", [1e308, 0, 0], "[1e+308, 0, 0]", MEAN),
                ("std", [0, 1, 1], "[0, 1, 1]", STD),
                ("std", [-1, 1, 1], "[-1, 1, 1]", STD),
                ("std", [True, 1, 1], "[True, 1, 1]", STD),
                ("std", [1] * 900, "[1, 1, 1, 1, 1, 1, ...]", STD),
            ]
        ),
    ],
    ids=str,
)
def test_wrong_fields_are_named(config: Any, cause: str, tmp_path: pathlib.Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(errors.ModelError) as refusal:
        hub_config.read(path, NAME)
    assert refusal.value.cause == f"config.json of {NAME}: {cause}"
    assert refusal.value.remedy == "Choose another repository, or give a ModelSpec of your own"


@pytest.mark.parametrize(
    "content", [b"", b"{not json", b"\xff{}", b"[" * 10**5, b"[" + b"1" * 5000 + b"]"]
)
def test_what_is_not_json_is_refused(content: bytes, tmp_path: pathlib.Path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(errors.WeightsError) as refusal:
        hub_config.read(path, NAME)
    assert refusal.value.cause.startswith(f"config.json of {NAME} is not valid JSON: ")
    assert refusal.value.remedy == "Download the repository again"


def test_a_huge_file_is_not_read(tmp_path: pathlib.Path):
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (hub_config.LARGEST + 1))
    with pytest.raises(errors.WeightsError) as refusal:
        hub_config.read(path, NAME)
    assert refusal.value.cause == (
        f"config.json of {NAME} has 1048577 bytes, and at most 1048576 are read"
    )
    assert refusal.value.remedy == "Choose another repository"
