"""A worker's look at one untouched model: scores, failures alone, and what ends the run."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.options import RankConfig
from ncap_jax.run import looking
from ncap_jax.run.job import Job, Look, Looked
from ncap_jax.run.looking import Looker
from tests.support.toy_runs import CONFIG, NAMES, POOL, digits


@pytest.fixture
def looker(monkeypatch):
    monkeypatch.setattr(
        looking, "feature_scores", lambda x, labels: {"logme": float(x.std()), "n": len(labels)}
    )
    return Looker(Job(tuple(POOL), digits(), CONFIG), images=50)


def look(looker, name="toy_1", **options):
    return looker(Look(name, **options), lambda item: None)


def test_as_many_images_are_shown_as_asked(looker):
    found = look(looker)
    assert (found.scores["n"], found.failure, found.weights) == (50, "", None)
    assert found.seconds > 0
    assert len({look(looker, name).scores["logme"] for name in NAMES}) == 3


def test_once_the_time_is_over_nothing_is_loaded(looker, monkeypatch):
    monkeypatch.setattr(looking.evaluation, "untouched_features", None)
    assert look(looker, over=True) == Looked()


def raising(error):
    def untouched(spec, feed, config):
        raise error

    return untouched


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.WeightsError("the file is torn", "Fetch it again"), "the file is torn"),
        (ValueError("no such layer"), "ValueError: no such layer"),
        (MemoryError("x" * 900), "MemoryError: " + "x" * 487),
    ],
)
def test_a_models_own_failure_is_told(looker, monkeypatch, error, words):
    monkeypatch.setattr(looking.evaluation, "untouched_features", raising(error))
    assert look(looker) == Looked(failure=words)


@pytest.mark.parametrize("kind", [errors.ChangedDataError, errors.OutputError])
def test_what_concerns_all_models_is_raised(looker, monkeypatch, kind):
    monkeypatch.setattr(looking.evaluation, "untouched_features", raising(kind("gone", "Fetch")))
    with pytest.raises(kind):
        look(looker)


def test_constant_features_are_a_failure(looker, monkeypatch):
    same = np.ones((4, 3)), np.array([0, 0, 1, 1])
    monkeypatch.setattr(looking.evaluation, "untouched_features", lambda *arguments: same)
    assert look(looker).failure == "its features are constant"


def test_programs_are_freed_after_some_models(looker, monkeypatch):
    freed: list[int] = []
    monkeypatch.setattr(looking, "MODELS_KEPT", 2)
    monkeypatch.setattr(looking.caching, "forget_compiled_programs", lambda: freed.append(1))
    for name in ("toy_1", "toy_2", "toy_3"):
        look(looker, name)
    assert len(freed) == 1


def test_another_process_keeps_its_compiled_programs(monkeypatch):
    kept: list[int] = []
    monkeypatch.setattr(looking.caching, "keep_compiled_programs", lambda: kept.append(1))
    job = Job(tuple(POOL), digits(), RankConfig())
    assert isinstance(looking.look_elsewhere(job, 50), Looker)
    assert kept == [1]
