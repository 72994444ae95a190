"""The whole way of timm's models beside the zoo's: what was run, and that it still goes."""

from __future__ import annotations

import pathlib

import pytest

from experiments import timm_live as study
from tests.support.tables import committed, rows
from tests.support.torch_nets import needs_timm


def holds(line: study.Line) -> None:
    """What every line must say."""
    assert 2 <= len(line["killed_at"]) < 8, "some models had begun when it was killed"
    assert line["kept"], "what was trained before the kill stays as it was"
    assert line["ranked_again_without_training"]
    assert line["reported"]
    assert len(line["ranking"]) == 8
    assert {status for _, status, _ in line["ranking"]} == {"ok"}
    assert line["winner_of_timm"][0].split(".")[0] in study.SIX
    assert None not in line["winner_of_timm"], "validated and tested"
    assert line["difference"] <= 1e-4


def test_the_whole_way_was_gone() -> None:
    lines = study.read()
    assert {line["set"] for line in lines} == set(study.SETS)
    for line in lines:
        holds(line)


def test_the_tables_are_what_the_study_prints(capsys: pytest.CaptureFixture[str]) -> None:
    study.show(study.read())
    assert rows(capsys.readouterr().out) == committed("timm_live")


@needs_timm
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", study.SETS)
def test_the_whole_way_again(name: str, tmp_path: pathlib.Path, shared_data: pathlib.Path) -> None:
    line = study.live(name, tmp_path, shared_data)
    assert line["set"] == name
    holds(line)
