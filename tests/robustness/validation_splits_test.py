"""Models on several splits of the data: means of separate trainings, kills, finish, errors."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.data import load_dataset
from ncap_jax.data.further_splits import further_splits
from ncap_jax.options import DataConfig, FinishConfig
from tests.support import toy_runs
from tests.support.photos import write_class
from tests.support.toy_runs import POOL, Stop, records, stop_after, timeless

DIGITS = load_dataset("digits", max_train=96, max_validation=30)
CONFIG = dataclasses.replace(toy_runs.CONFIG, head="linear", num_probes=1, validation_splits=3)
ALONE = dataclasses.replace(CONFIG, validation_splits=1)


def rank(folder=None, config=CONFIG, dataset=DIGITS):
    return ncap.rank_models(POOL[:2], dataset, config, folder, show_progress=False)


@pytest.fixture(scope="module")
def whole():
    return rank()


def test_what_is_recorded_is_the_mean_of_separate_trainings(whole):
    sets = [DIGITS, *further_splits(DIGITS, 2, CONFIG.seed)]
    apart = [rank(None, ALONE, one) for one in sets]
    for number, trajectory in enumerate(whole.trajectories):
        for name in ("validation_accuracy", "validation_loss", "train_loss"):
            series = [ranking.trajectories[number].series(name) for ranking in apart]
            np.testing.assert_allclose(trajectory.series(name), np.mean(series, axis=0), rtol=1e-6)
    assert len({tuple(r.trajectories[0].series("validation_loss")) for r in apart}) == 3
    assert whole.info.num_validation == 3 * apart[0].info.num_validation
    assert whole.info.data["validation images"] == "30 in each of 3 splits"


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("save", 2),
        pytest.param("append", 3, marks=pytest.mark.slow),
        pytest.param("finish", 1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_between_epochs_changes_nothing(whole, tmp_path, monkeypatch, method, calls):
    with monkeypatch.context() as patch:
        stop_after(patch, calls, method)
        with pytest.raises(Stop):
            rank(tmp_path)
    assert timeless(rank(tmp_path)) == timeless(whole)


def test_a_trial_of_rates_is_settled_by_all_splits():
    """At 1e30 everything breaks, so the second rate is taken on every split."""
    config = dataclasses.replace(CONFIG, learning_rate=1e30, trial_rates=(1e-3,))
    for trajectory in rank(config=config).trajectories:
        assert [r.learning_rate for r in trajectory.records] == [None, 1e-3, 1e-3, 1e-3]
        assert trajectory.status == "ok"


def test_the_finish_goes_on_from_the_state_of_the_users_own_split(tmp_path):
    """One split alone has the same first epoch after the ranking."""
    found = {}
    for config in (CONFIG, ALONE):
        folder = tmp_path / str(config.validation_splits)
        ranking = ncap.rank_models(POOL[:1], DIGITS, config, folder, show_progress=False)
        ncap.finish(ranking, 1, FinishConfig(max_epochs=1), show_progress=False)
        lines = (folder / "finish" / "trajectories" / "toy_1.jsonl").read_text().splitlines()
        found[config.validation_splits] = lines[-1]
    cut = [re.sub(r'"(measure_)?seconds": [^,}]+', "", line) for line in found.values()]
    assert cut[0] == cut[1]


@pytest.mark.slow  # starts a process that imports JAX
def test_the_same_in_a_process_of_its_own(whole):
    config = dataclasses.replace(CONFIG, executor="processes", workers=1)
    assert [records(t) for t in rank(config=config).trajectories] == [
        records(t) for t in whole.trajectories
    ]


def test_what_cannot_be_split_is_refused_before_any_training(tmp_path):
    for name in ("cat", "dog"):
        write_class(tmp_path / name, 5)
    many = dataclasses.replace(CONFIG, validation_splits=6)
    with pytest.raises(errors.ConfigError, match="Use validation_splits=5 or fewer"):
        rank(None, many, tmp_path)
    streamed = DataConfig(stream=True)
    with pytest.raises(errors.ConfigError, match="validation_splits=3 with streamed images"):
        ncap.rank_models(POOL[:1], tmp_path, CONFIG, data_config=streamed, show_progress=False)
