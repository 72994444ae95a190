"""What a recall keeps on the disk."""

from __future__ import annotations

import json
import math

import pytest

from ncap_jax.run import recall_files
from ncap_jax.run.recall_files import Decision, ScoreCache, Scores
from ncap_jax.selection.recall import Candidate
from ncap_jax.types import LeftOut

KEY = {"candidates": ("a", "b"), "recall": 1}
DECISION = Decision(
    ("a",),
    (LeftOut("b", "place 2", "recall"),),
    2.5,
    (Candidate("a", "x", 71.0, {"logme": 0.5}, "", 1.25), Candidate("b", failure="gone")),
)


def test_a_decision_comes_back(tmp_path):
    recall_files.write_decision(tmp_path, KEY, DECISION)
    found = recall_files.read_decision(tmp_path, KEY)
    assert (found.chosen, found.left_out, found.seconds) == (
        DECISION.chosen,
        DECISION.left_out,
        DECISION.seconds,
    )
    assert found.candidates[0] == DECISION.candidates[0]
    assert math.isnan(found.candidates[1].prior)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "recall.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("damage", ["gone", "torn", "another key", "another schema", "no text"])
def test_what_is_no_decision_of_this_run_is_none(tmp_path, damage):
    recall_files.write_decision(tmp_path, KEY, DECISION)
    file = tmp_path / "recall.json"
    text = file.read_text()
    if damage == "gone":
        file.unlink()
    elif damage == "torn":
        file.write_text(text[:-20])
    elif damage == "another schema":
        file.write_text(text.replace('"schema": 1', '"schema": 2'))
    elif damage == "no text":
        file.write_bytes(b"\xff\xfe")
    key = {**KEY, "recall": 2} if damage == "another key" else KEY
    assert recall_files.read_decision(tmp_path, key) is None


def test_scores_are_found_by_weights_and_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    scores = Scores({"logme": 0.5}, 3.0)
    cache = ScoreCache(tmp_path / "run", {"data": "1"})
    cache.put("a", "weights", scores)
    cache.put("b", None, scores)
    assert cache.get("a", "weights") == cache.get("b", None) == scores
    assert cache.get("a", "other weights") is None
    assert ScoreCache(tmp_path / "run", {"data": "2"}).get("a", "weights") is None
    # Of weights without a digest another run knows nothing; a run without a folder keeps none.
    elsewhere = ScoreCache(None, {"data": "1"})
    assert elsewhere.get("a", "weights") == scores
    elsewhere.put("b", None, scores)
    assert elsewhere.get("b", None) is None


def test_damaged_scores_and_a_cache_that_cannot_be_written_cost_time_only(tmp_path):
    cache = ScoreCache(tmp_path, {})
    for damage in ("", "{", '{"scores": {"logme": null}, "seconds": 1}', "[]"):
        cache.put("a", None, Scores({"logme": 0.5}, 3.0))
        (file,) = (tmp_path / "recall").iterdir()
        file.write_text(damage)
        assert cache.get("a", None) is None
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    ScoreCache(blocked, {}).put("a", None, Scores({"logme": 0.5}, 3.0))
