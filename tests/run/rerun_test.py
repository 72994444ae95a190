"""A run made again from its run.json, and how the two are compared."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.options import DataConfig, Execution, RankConfig
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.run import rerun, start
from ncap_jax.types import InferenceCost
from tests.support import command_line, fake_training

CONFIG = RankConfig(epochs=2, trial_rates=(), strategy="full")
DATA = DataConfig(max_train=64, max_validation=100)


@pytest.fixture(scope="module", autouse=True)
def fake():
    """Training is deterministic, faked or not: what is tested is that all of it is repeated."""
    with pytest.MonkeyPatch.context() as patch:
        fake_training.install(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on named data, by models of the registry."""
    folder = tmp_path_factory.mktemp("original") / "mine"
    models = ["tiny_depthwise", "tiny_plain_barely"]
    ncap.rank_models(models, "digits", CONFIG, folder, data_config=DATA, show_progress=False)
    return folder


def results(folder):
    return ncap.load_trajectories(folder), read_ranking(folder)


def facts(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def again(run):
    """What the command line says when it repeats the run."""
    return command_line.here(f"--rerun={run / 'run.json'}", cwd=run.parent)


def test_the_command_line_says_identical(run, again):
    assert again.code == 0, again.err
    repeated = run.parent / "mine-rerun"
    assert again.out == (
        "identical: trajectories and ranking agree in every number but the times\n\n"
        f"Rerun: {repeated}\n"
    )
    assert facts(repeated)["config"] == facts(run)["config"]
    assert facts(repeated)["data"] == facts(run)["data"]
    assert facts(repeated)["command"] == facts(run)["command"]


def test_a_run_that_has_grown_is_repeated_as_it_ranks_now(run, again, tmp_path):
    """What the folder keeps beside its ranking belongs to no rerun."""
    grown = shutil.copytree(run, tmp_path / "mine")
    for models, epochs in ((["tiny_depthwise"], 3), (["tiny_plain_barely"], 1)):
        config = dataclasses.replace(CONFIG, epochs=epochs)
        ncap.rank_models(models, "digits", config, grown, data_config=DATA, show_progress=False)
    comparison = rerun.rerun(grown, tmp_path / "again", show_progress=False)
    assert comparison.identical
    assert [t.model for t in ncap.load_trajectories(tmp_path / "again")] == ["tiny_plain_barely"]


def test_a_rerun_takes_the_models_of_the_run_however_slow_they_are_here(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "mine")
    about = facts(copy)
    about["config"]["max_latency_ms"] = 1e-9  # which nobody keeps to
    about["config"]["recall"] = 1  # of a longer list
    (copy / "run.json").write_text(json.dumps(about))
    assert rerun.rerun(copy, tmp_path / "again", show_progress=False).identical


def test_what_using_a_model_costs_is_no_result(run):
    trajectories, ranking = results(run)
    assert {row.cost.licence for row in ranking.models} == {"Apache-2.0"}
    rows = (dataclasses.replace(row, cost=InferenceCost()) for row in ranking.models)
    other = dataclasses.replace(ranking, models=tuple(rows))
    about = facts(run)
    found = rerun.compare(about, about, (trajectories, ranking), (trajectories, other))
    assert found.identical


def test_another_result_is_named_and_exits_with_1(run, again, tmp_path):
    copy = shutil.copytree(run, tmp_path / "mine")
    trajectory = copy / "trajectories" / "tiny_depthwise.jsonl"
    lines = [json.loads(line) for line in trajectory.read_text().splitlines()]
    lines[1]["validation_loss"] += 0.25
    trajectory.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run.parent / "mine-rerun"  # finished: nothing is trained again
    said = command_line.here(f"--rerun={copy}", f"--output_dir={done}", cwd=tmp_path)
    assert said.code == 1, said.err
    assert said.out.startswith("different; largest differences\n  validation_loss: 0.25\n")


def test_what_is_no_run_is_refused(tmp_path):
    said = command_line.here("--rerun=nowhere", cwd=tmp_path)
    assert said.code == 2
    assert said.err.startswith("error: nowhere does not describe a run: ")
    assert said.err.endswith("Give the run.json of a run that this version made.\n")


@pytest.mark.parametrize(
    "flag", ["--epochs=3", "--models=tiny_plain", "--max_train=9", "--mesh=data:2"]
)
def test_a_rerun_takes_no_other_option(tmp_path, flag):
    said = command_line.here("--rerun=run.json", flag, cwd=tmp_path)
    assert said.code == 2
    assert said.err == (
        f"error: {flag.split('=')[0]} with --rerun, which repeats a run as it was. "
        "Leave it out; only --output_dir, --executor, --workers, --ray_address go with --rerun.\n"
    )


def test_a_saved_run_is_read_whole(run):
    for path in (run, run / "run.json"):
        saved = rerun.read_saved_run(path)
        assert saved.folder == run
        assert saved.models == ("tiny_depthwise", "tiny_plain_barely")
        assert (saved.dataset, saved.config, saved.data_config) == ("digits", CONFIG, DATA)


def test_arrays_and_own_models_are_refused(run, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**facts(run), "command": None}))
    with pytest.raises(errors.ConfigError) as error:
        rerun.read_saved_run(tmp_path)
    assert error.value.cause == (
        f"{tmp_path / 'run.json'} describes a run on arrays, or of models made in Python, which it "
        "cannot hold"
    )
    assert error.value.remedy == (
        "Repeat it from Python: rank_models with the same arguments and another output_dir"
    )


def test_an_option_that_cannot_work_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "mine")
    changed = facts(run)
    changed["config"]["batch_size"] = 0
    (copy / "run.json").write_text(json.dumps(changed))
    with pytest.raises(errors.ConfigError) as error:
        rerun.rerun(copy, tmp_path / "again")
    assert error.value.cause == "batch_size=0"
    assert not (tmp_path / "again").exists()


@pytest.fixture
def foreign(run, tmp_path):
    """Somebody else's run.json: it wants a Ray cluster at an address of its own."""
    copy = shutil.copytree(run, tmp_path / "foreign")
    theirs = facts(run)
    theirs["config"] |= {"executor": "ray", "workers": 3, "ray_address": "attacker.example:6379"}
    (copy / "run.json").write_text(json.dumps(theirs))
    return copy


def test_a_file_does_not_choose_where_a_rerun_executes(foreign, monkeypatch):
    asked = []
    make = start.make_executor
    monkeypatch.setattr(
        start, "make_executor", lambda where, *rest: asked.append(where) or make(where, *rest)
    )
    comparison = rerun.rerun(foreign, foreign.parent / "again", show_progress=False)
    assert [(x.executor, x.workers, x.ray_address) for x in asked] == [("local", None, None)]
    assert comparison.equal
    assert comparison.identical
    assert comparison.changed == (
        'config.executor was "ray", is "local"',
        'config.ray_address was "attacker.example:6379", is null',
        "config.workers was 3, is null",
    )


def test_who_repeats_a_run_chooses_where_and_a_refused_rerun_leaves_nothing(foreign, monkeypatch):
    def refuse(where, *rest):
        text = f"{where.executor} {where.workers} {where.ray_address}"
        raise errors.ConfigError(text, "Use executor='local'")

    monkeypatch.setattr(start, "make_executor", refuse)
    place = foreign.parent
    before = sorted(place.rglob("*"))
    said = command_line.here(
        f"--rerun={foreign}",
        f"--output_dir={place / 'deep' / 'again'}",
        "--executor=processes",
        "--workers=2",
        cwd=place,
    )
    assert said.code == 2
    assert said.err.endswith("error: processes 2 None. Use executor='local'.\n")
    assert sorted(place.rglob("*")) == before


def test_the_mesh_is_part_of_what_is_repeated():
    config = RankConfig(mesh="data:2", executor="ray", ray_address="a:1")
    assert rerun.executed(config, Execution(mesh="data:4")) == RankConfig(mesh="data:2")


def test_the_original_is_not_overwritten(run):
    with pytest.raises(errors.OutputError) as error:
        rerun.rerun(run, run)
    assert error.value.cause == f"{run} is the folder of the original run"
    assert error.value.remedy == "Choose another output folder"


def changed(ranking, **fields):
    first, *rest = ranking.models
    return dataclasses.replace(ranking, models=(dataclasses.replace(first, **fields), *rest))


def test_elsewhere_the_noise_of_the_validation_part_is_tolerated(run):
    trajectories, ranking = results(run)
    there = facts(run)
    here = {**there, "device": "1 x another"}
    close = tuple(a + 0.02 for a in ranking.best.validation_accuracy)
    far = tuple(a - 0.5 for a in ranking.best.validation_accuracy)
    cases = [
        (here, {"validation_accuracy": close}, True),
        (there, {"validation_accuracy": close}, False),  # the same machine rounds alike
        (here, {"validation_accuracy": far}, False),
        (here, {"status": "diverged", "rank": None}, False),
        (here, {"rank": 2}, False),
        (here, {"rank": 2, "tied_with_best": True}, True),
        ({**here, "config": {**here["config"], "seed": 1}}, {}, False),  # another run
    ]
    for again, fields, equal in cases:
        comparison = rerun.compare(
            there, again, (trajectories, ranking), (trajectories, changed(ranking, **fields))
        )
        assert comparison.equal is equal, (fields, comparison)
        assert comparison.identical == (not fields)
    assert "changed: device was" in str(comparison)
    assert "changed: config.seed was 0, is 1" in str(comparison)


def test_a_model_or_an_epoch_that_is_missing_is_a_difference(run):
    trajectories, ranking = results(run)
    fewer = dataclasses.replace(ranking, models=ranking.models[:1])
    there = facts(run)
    comparison = rerun.compare(there, there, (trajectories, ranking), (trajectories[:1], fewer))
    assert comparison.deviations == {"epochs": 3, "models": math.inf}
    assert not comparison.equal


def test_nan_equals_nan_and_nothing_else():
    nan = float("nan")
    assert dict(rerun.value_deviations({"a": nan}, {"a": nan})) == {"a": 0.0}
    assert dict(rerun.value_deviations({"a": nan}, {"a": 1.0})) == {"a": math.inf}
    assert dict(rerun.value_deviations({"a": [1, 2]}, {"a": [1]})) == {"a": math.inf}
    assert dict(rerun.value_deviations({"a": "x"}, {"a": "y"})) == {"a": math.inf}
    assert dict(rerun.value_deviations({"seconds": 1}, {"seconds": 2})) == {}
