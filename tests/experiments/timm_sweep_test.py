"""The sweep over timm's architectures: its tables, and that what it says still holds."""

from __future__ import annotations

import itertools
import json
import pathlib
import re

import pytest

from experiments import timm_sweep as sweep
from tests.support.tables import committed, rows
from tests.support.torch_nets import needs_timm

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES = sweep.read()
CHUNK = 6


def test_it_covers_many_families() -> None:
    """A part of the plan; the rest has not run yet (docs/results/timm.md)."""
    names = [line["architecture"] for line in LINES]
    assert len(set(names)) == len(names) >= 120
    assert len({line["family"] for line in LINES}) >= 55
    works = [line for line in LINES if line["status"] == "works"]
    assert len(works) >= 0.97 * len(LINES)
    assert all(line["reason"] for line in LINES if line["status"] != "works")


def test_what_works_agrees_within_the_tolerance() -> None:
    for line in LINES:
        if line["status"] == "works":
            found, limit = line["float32"], sweep.SINGLE
            if "float64" in line:
                found, limit = line["float64"], sweep.DOUBLE
            assert set(found) == {"inference", "training", "statistics", "gradient"}
            assert max(found.values()) <= limit, line


def test_the_tables_are_what_the_study_prints(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.show(LINES)
    printed = capsys.readouterr().out
    assert rows(printed) == committed("timm_sweep")
    models = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert sweep.summary(LINES) in re.sub(r"\s+", " ", models)
    assert sweep.family_table(LINES) in models


def test_a_sweep_goes_on_after_a_line_that_was_cut_off(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "lines.jsonl"
    one, two = ({"architecture": name} for name in "ab")
    sweep.append(file, one)
    with file.open("a", encoding="utf-8") as end:
        end.write('{"archi')
    assert sweep.not_in([one, two], file) == [two]
    sweep.append(file, two)
    assert sweep.read(file) == [one, two]


def test_every_kind_of_a_family_is_chosen() -> None:
    family = [
        {"architecture": name, "millions": count}
        for name, count in {"b_large": 9, "a_1": 4, "a_2": 3, "b_small": 5, "a_3": 1}.items()
    ]
    names = [line["architecture"] for line in sweep.chosen_of(family)]
    assert names == ["a_3", "b_small", "a_2", "a_1"]
    assert [line["architecture"] for line in sweep.chosen_of(family[1:3])] == ["a_2", "a_1"]


def test_a_model_that_gives_no_result_is_given_up(tmp_path: pathlib.Path) -> None:
    one = {"architecture": "resnet10t", "family": "resnet", "millions": 5.4}
    sweep.sweep([one], tmp_path / "lines.jsonl", seconds=0)
    reason = "gave no result in 0 s"
    assert sweep.read(tmp_path / "lines.jsonl") == [{**one, "status": "fails", "reason": reason}]


@needs_timm
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "start", range(0, len(LINES), CHUNK), ids=lambda n: LINES[n]["architecture"]
)
def test_pytorchs_numbers_again(start: int, tmp_path: pathlib.Path) -> None:
    """A few architectures, in a process of their own; the id is the first one's."""
    some = LINES[start : start + CHUNK]
    plan = [{key: line[key] for key in ("architecture", "family", "millions")} for line in some]
    sweep.sweep(plan, tmp_path / "lines.jsonl")
    again = sweep.read(tmp_path / "lines.jsonl")
    for before, after in itertools.zip_longest(some, again):
        assert after["architecture"] == before["architecture"]
        assert after["status"] == before["status"], json.dumps(after)
