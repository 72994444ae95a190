"""A score that is added to packed runs: of the right model, seed and set; nothing else changes."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from experiments import add_scores, build_corpus, corpus_files
from ncap_jax.data.feeding import make_feed
from ncap_jax.options import RankConfig
from ncap_jax.predictor.scores import SCORES
from tests.support.small import small_digits, small_spec

SCORE = "nearest_neighbours"


def config_of(spec, seed):
    return RankConfig(seed=seed, batch_size=32, trial_rates=(), weights="random")


def line(model: str, seed: int, logme: float) -> dict:
    run = {"epoch": [0], "validation_accuracy": [0.5]}
    score = {"value": logme, "seconds": 1.0}
    return {"model": model, "seed": seed, "scores": {"logme": score}, "runs": {"linear": run}}


@pytest.fixture
def file(tmp_path: pathlib.Path, monkeypatch) -> add_scores.File:
    monkeypatch.setattr(add_scores.corpus_sets, "load", lambda *a, **k: small_digits())
    specs = [dataclasses.replace(small_spec(name), weights="random") for name in ("a", "b", "c")]
    path = tmp_path / "set_pool.jsonl"
    corpus_files.add(path, [line("a", 0, 1.0), line("a", 1, 1.0)], ("model", "seed"))
    corpus_files.add(path, [line("b", 0, 1.0), line("b", 1, 2.0)], ("model", "seed"))
    return add_scores.File(path, "digits", {}, specs, config_of)


def test_where_seeds_differ_each_has_its_own_model(file, tmp_path):
    before = file.path.read_text()
    assert add_scores.add(file, SCORE, tmp_path) == 4
    after = {(x["model"], x["seed"]): x for x in corpus_files.lines_of(file.path)}
    feed = make_feed(small_digits())

    def truth(place: int, seed: int) -> float:
        spec = file.specs[place]
        found = build_corpus.scores(spec, feed, config_of(spec, seed), [SCORE])
        return found[SCORE]["value"]

    values = {key: x["scores"].pop(SCORE)["value"] for key, x in after.items()}
    assert values["a", 0] == values["a", 1] == truth(0, 0)
    assert (values["b", 0], values["b", 1]) == (truth(1, 0), truth(1, 1))
    assert values["b", 0] != values["b", 1]
    assert "".join(json.dumps(x) + "\n" for x in after.values()) == before


def test_what_has_the_score_is_not_computed_again(file, tmp_path, monkeypatch):
    add_scores.add(file, SCORE, tmp_path)
    monkeypatch.setattr(add_scores.build_corpus, "scores", None)
    assert add_scores.add(file, SCORE, tmp_path) == 0
    assert add_scores.add(file._replace(path=tmp_path / "none.jsonl"), SCORE, tmp_path) == 0


def test_every_packed_file_is_known():
    known = {file.path for file in add_scores.packed("weights")}
    for path in [*corpus_files.files(), *corpus_files.files(large=True)]:
        assert path in known
    lists = corpus_files.FOLDER / "long_lists"
    assert set(lists.glob("*.jsonl")) <= known
    assert SCORE in SCORES
