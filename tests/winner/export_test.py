"""`ncap_jax.export`: which format, and where to."""

from __future__ import annotations

import pathlib

import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.winner import export as exports
from ncap_jax.winner.model import Winner
from tests.support.winners import tiny_winner, toy_winner


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Winner, pathlib.Path]]:
    """What the format `onnx` was asked to write."""
    asked: list[tuple[Winner, pathlib.Path]] = []
    watched = exports.Format(lambda *what: asked.append(what), ".onnx")
    monkeypatch.setattr(exports, "FORMATS", {**exports.FORMATS, "onnx": watched})
    return asked


def test_a_model_is_written_where_it_is_told(written: list):
    path = ncap.export(toy_winner(), "onnx", "~/model.onnx")
    assert path == pathlib.Path("~/model.onnx").expanduser()
    assert written == [(toy_winner(), path)]


def test_its_name_is_that_of_the_file(written: list):
    assert ncap.export(toy_winner(), "onnx") == pathlib.Path("toy_1.onnx")


def test_a_folder_is_loaded(written: list, tmp_path: pathlib.Path):
    tiny_winner().save(tmp_path / "model")
    ncap.export(tmp_path / "model", "onnx", tmp_path / "model.onnx")
    ((winner, path),) = written
    assert (winner.name, path) == (tiny_winner().name, tmp_path / "model.onnx")


def test_an_unknown_format_is_refused_before_the_model_is_read(tmp_path: pathlib.Path):
    with pytest.raises(errors.ConfigError) as caught:
        ncap.export(tmp_path / "nothing", "onxx")
    assert caught.value.cause == "unknown format 'onxx'"
    assert caught.value.remedy == "Did you mean onnx"
