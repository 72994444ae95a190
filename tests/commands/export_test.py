"""`python -m ncap_jax export`."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from ncap_jax.winner import export as exports
from ncap_jax.zoo import MODELS
from tests.support.command_line import here
from tests.support.winners import make_winner


def test_it_writes_a_model_that_was_saved(tmp_path: pathlib.Path):
    make_winner(MODELS["cifar_resnet20"]).save(tmp_path / "model")
    said = here("export", "model", "--format=timm", "--output=out", cwd=tmp_path)
    assert (said.code, said.out, said.err) == (0, "Written: out\n", "")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "0 models are given. Write export, the folder of one model, and --format."),
        (["a", "b"], "2 models are given. Write export, the folder of one model, and --format."),
        (
            ["a"],
            "no format is given. Add --format=stablehlo, --format=onnx or --format=timm.",
        ),
        (
            ["none", "--format=timm"],
            "none is not a folder. Give the folder of a model that was saved.",
        ),
        (["a", "--format=onxx"], "unknown format 'onxx'. Did you mean onnx."),
    ],
)
def test_what_is_missing_is_named(tmp_path: pathlib.Path, words: list[str], said: str):
    found = here("export", *words, cwd=tmp_path)
    assert (found.code, found.out, found.err) == (2, "", f"error: {said}\n")


def test_help_says_how_it_is_written(tmp_path: pathlib.Path):
    found = here("export", "--help", cwd=tmp_path)
    assert found.code == 0
    assert "python -m ncap_jax export MODEL --format=onnx" in found.out
    assert "--format" in found.out
    assert "--output" in found.out


def test_an_interrupted_command_says_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exports, "export", interrupted)
    found = here("export", "model", "--format=onnx", cwd=tmp_path)
    assert (found.code, found.out) == (130, "")
