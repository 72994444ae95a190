"""Runs that grow in their folder come to what a fresh run with the same options comes to."""

from __future__ import annotations

import dataclasses
import json

import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import loop
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import RankConfig
from ncap_jax.predictor.validation_score import of_counts, score
from ncap_jax.run import pipeline, preparing, schedule
from tests.support import fake_training, killing
from tests.support.small import deep_spec, small_config
from tests.support.toy_runs import POOL, Stop, digits, stop_after, timeless

PLAN = RankConfig(epochs=2, weights="random", trial_rates=())
STATELESS = dataclasses.replace(PLAN, keep_states=0)
LONG = dataclasses.replace(PLAN, epochs=5)
HALVING = {"strategy": "halving", "halving_top": 1}


def rank(folder=None, config=PLAN, models=POOL):
    return ncap.rank_models(models, digits(), config, folder, show_progress=False)


@pytest.fixture
def fake(monkeypatch):
    """Training is fake, nothing is checked or reported; the epochs that are trained are told."""
    fake_training.install(monkeypatch)
    monkeypatch.setattr(pipeline.report, "write", lambda *arguments: None)
    monkeypatch.setattr(preparing.shapes, "checked", lambda specs, size: specs)
    trained, advance = [], loop.advance

    def counted(tuning, state, epoch):
        if epoch:
            trained.append((tuning.candidate.name, epoch))
        return advance(tuning, state, epoch)

    monkeypatch.setattr(loop, "advance", counted)
    keep_in_memory(monkeypatch)
    return trained


def keep_in_memory(patch):
    """States outlast what stands for a kill, without Orbax, whose files take most of the time."""
    kept = {}
    for name, method in {
        "save": lambda self, epoch, tree: kept.update({self.folder: (epoch, tree)}),
        "latest": lambda self: kept.get(self.folder, (None,))[0],
        "restore": lambda self, epoch, template: kept[self.folder][1],
        "remove": lambda self: kept.pop(self.folder, None),
    }.items():
        patch.setattr(Checkpoints, name, method)


def held(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "changes",
    [{}, {**HALVING, "epochs_budget": 9}],
    ids=["full", "limited"],
)
@pytest.mark.parametrize(
    "steps",
    [
        [(PLAN, POOL), (LONG, POOL)],
        [(LONG, POOL), (PLAN, POOL)],
        [(LONG, POOL[:2]), (PLAN, POOL[1:]), (LONG, POOL[::-1])],
        [(LONG, POOL), (dataclasses.replace(LONG, predictor="last_training_loss"), POOL[:2])],
        [(dataclasses.replace(PLAN, **HALVING), POOL), (LONG, POOL)],
    ],
    ids=["longer", "shorter", "other models", "another predictor", "another strategy"],
)
def test_a_run_that_grows_is_ranked_like_a_fresh_one(fake, tmp_path, monkeypatch, steps, changes):
    killing.the_worst_has_no_chance(monkeypatch)
    for config, models in steps:
        config = dataclasses.replace(config, **changes)
        grown = rank(tmp_path, config, models)
        assert timeless(grown) == timeless(rank(None, config, models))
        assert held(tmp_path)["config"]["epochs"] == config.epochs
        assert list(held(tmp_path)["models"]) == [spec.name for spec in models]


def test_what_is_in_the_folder_is_not_trained_again(fake, tmp_path):
    rank(tmp_path, LONG, POOL[:2])
    fake.clear()
    for config in (PLAN, dataclasses.replace(LONG, predictor="last_training_loss"), LONG):
        for models in (POOL[:1], POOL[1::-1]):
            rank(tmp_path, config, models)
    assert fake == []
    rank(tmp_path, LONG)
    assert fake == [("toy_3", epoch) for epoch in range(1, 6)]
    assert held(tmp_path)["set_aside"] == {}
    rank(tmp_path, LONG, POOL[2:])
    assert list(held(tmp_path)["set_aside"]) == ["toy_1", "toy_2"]
    assert [t.model for t in ncap.load_trajectories(tmp_path)] == ["toy_3"]


def test_halving_trains_again_only_those_that_it_keeps(fake, tmp_path, monkeypatch):
    killing.the_worst_has_no_chance(monkeypatch)
    rank(tmp_path, STATELESS)
    fake.clear()
    rank(tmp_path, dataclasses.replace(LONG, **HALVING))
    (name,) = {name for name, _ in fake}
    assert fake == [(name, epoch) for epoch in range(1, 6)]


def test_states_that_were_kept_go_on(fake, tmp_path, capsys):
    rank(tmp_path, models=POOL[:1])
    rank(tmp_path, STATELESS, POOL[1:])
    fake.clear()
    grown = ncap.rank_models(POOL, digits(), LONG, tmp_path)
    assert fake == [
        *(("toy_1", epoch) for epoch in range(3, 6)),
        *((name, epoch) for name in ("toy_2", "toy_3") for epoch in range(1, 6)),
    ]
    assert timeless(grown) == timeless(rank(None, LONG))
    said = capsys.readouterr().err.splitlines()
    assert "Going on from the states that were kept: toy_1." in said
    assert "Repeating the epochs in the folder, because no state was kept: toy_2, toy_3." in said


@pytest.mark.parametrize(
    ("method", "calls"), [("append", 2), ("save", 4), ("append", 5), ("finish", 2)]
)
def test_a_kill_while_a_run_grows_costs_time_only(fake, tmp_path, method, calls):
    """And the ranking before is still there to be had."""
    short = rank(tmp_path, models=POOL[:2])
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, calls, method)
        with pytest.raises(Stop):
            rank(tmp_path, LONG, POOL[1:])
    fake.clear()
    assert timeless(rank(tmp_path, models=POOL[:2])) == timeless(short)
    assert fake == []
    assert timeless(rank(tmp_path, LONG, POOL[1:])) == timeless(rank(None, LONG, POOL[1:]))


def test_another_metric_ranks_what_the_folder_holds(fake, tmp_path):
    rank(tmp_path)
    fake.clear()
    by_class = dataclasses.replace(PLAN, metric="macro_f1")
    ranked = timeless(rank(tmp_path, by_class))
    assert fake == []
    assert held(tmp_path)["config"]["metric"] == "macro_f1"
    assert ranked == timeless(rank(None, by_class))
    assert ranked != timeless(rank(tmp_path))
    assert held(tmp_path)["config"]["metric"] == "accuracy"


def test_who_stops_early_is_decided_by_the_metric(fake, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        schedule.halving, "stopped", lambda trajectories, *_: looked_at.extend(trajectories) or {}
    )
    rank(None, dataclasses.replace(LONG, **HALVING, metric="macro_f1"))
    records = [record for trajectory in looked_at for record in trajectory.records]
    assert records
    assert all(r.validation_accuracy == score(r, "macro_f1") for r in records)
    assert any(r.validation_accuracy != accuracy_of(r) for r in records)


def accuracy_of(record):
    """The accuracy of the answers that were counted."""
    return of_counts(record.validation_counts, "accuracy")


def test_a_folder_from_before_there_were_metrics(fake, tmp_path):
    """It goes on by accuracy; for another metric it lacks the answers by class, and stays."""
    whole = timeless(rank(tmp_path))
    about = held(tmp_path)
    del about["config"]["metric"]
    (tmp_path / "run.json").write_text(json.dumps(about))
    for file in (tmp_path / "trajectories").iterdir():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            del line["validation_counts"]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fake.clear()
    with pytest.raises(errors.OutputError) as error:
        rank(tmp_path, dataclasses.replace(PLAN, metric="balanced_accuracy"))
    assert error.value.cause == (
        f"{tmp_path} was recorded without the answers by class that metric='balanced_accuracy' is "
        "computed from: toy_1 has none after epochs 0, 1, 2"
    )
    assert error.value.remedy == "Choose another folder, or metric='accuracy'"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = rank(tmp_path)
    assert fake == []
    assert [row.predicted_accuracy for row in again.models] == [
        row.predicted_accuracy for row in rank(None).models
    ]
    assert whole == timeless(rank(None))
    assert held(tmp_path)["config"]["metric"] == "accuracy"


def test_time_that_does_not_suffice_to_grow_takes_nothing_away(fake, tmp_path):
    """The first model has its epoch; the second was known up to its second, and still is."""
    rank(tmp_path, models=POOL[:2])
    with pytest.warns(UserWarning, match="time_budget"):
        grown = rank(tmp_path, dataclasses.replace(LONG, time_budget=1e-6), POOL[:2])
    assert {(t.model, t.status, t.epochs) for t in grown.trajectories} == {
        ("toy_1", "stopped", 3),
        ("toy_2", "stopped", 2),
    }


# Networks whose beta_eff is measured.

DEEP = small_config(head="linear", epochs=2)


def beta_effs(ranking):
    (trajectory,) = ranking.trajectories
    return [record.epoch for record in trajectory.records if record.beta_eff]


def test_real_training_with_beta_eff_grows_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.report, "write", lambda *arguments: None)
    models, longer = [deep_spec()], dataclasses.replace(DEEP, epochs=3)
    short = rank(tmp_path, DEEP, models)
    grown = rank(tmp_path, longer, models)
    assert beta_effs(short) == [2]
    assert beta_effs(grown) == [3]
    assert timeless(grown) == timeless(rank(None, longer, models))
    assert timeless(rank(tmp_path, DEEP, models)) == timeless(short)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(errors.OutputError) as error:
        rank(tmp_path, dataclasses.replace(longer, predictor="scaled_ridge"), models)
    assert error.value.cause == (
        f"{tmp_path} was recorded without what predictor='scaled_ridge' reads: deep has no "
        "absolute beta_eff after epochs 0, 1, 2, 3"
    )
    assert error.value.remedy == "Choose another folder, or a predictor that reads no beta_eff"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
