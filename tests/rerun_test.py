"""A run made again from its run.json, and how the two are compared."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from absl import flags
from absl.testing import flagsaver

import ncap_jax as ncap
from ncap_jax import __main__ as main
from ncap_jax import errors, rerun
from ncap_jax.report.files import read_ranking
from ncap_jax.types import DataConfig
from tests.main_test import ncap as command_line
from tests.small import small_config

CONFIG = small_config(epochs=2, weights="pretrained")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run on named data: it takes seconds."""
    folder = tmp_path_factory.mktemp("original") / "mine"
    data_config = DataConfig(max_train=64, max_validation=100)
    models = ["tiny_depthwise", "tiny_plain_barely"]
    ncap.rank_models(models, "digits", CONFIG, folder, data_config=data_config, show_progress=False)
    return folder


def results(folder):
    return ncap.load_trajectories(folder), read_ranking(folder)


def facts(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def again(run):
    """What the command line says when it repeats the run, in a process of its own."""
    return command_line(f"--rerun={run / 'run.json'}", cwd=run.parent)


def test_the_command_line_says_identical(run, again):
    assert again.returncode == 0, again.stderr
    assert "identical: trajectories and ranking agree" in again.stdout
    assert f"Rerun: {run.parent / 'mine-rerun'}" in again.stdout
    repeated = facts(run.parent / "mine-rerun")
    assert repeated["config"] == facts(run)["config"]
    assert repeated["command"] == facts(run)["command"]


def test_another_result_is_named_and_exits_with_1(run, again, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "mine")
    trajectory = copy / "trajectories" / "tiny_depthwise.jsonl"
    lines = [json.loads(line) for line in trajectory.read_text().splitlines()]
    lines[1]["validation_loss"] += 0.25
    trajectory.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run.parent / "mine-rerun"  # finished: nothing is trained again
    with flagsaver.flagsaver():
        flags.FLAGS(["ncap_jax", f"--rerun={copy}", f"--output_dir={done}"])
        assert main.rerun() == 1
    said = capsys.readouterr().out
    assert said.startswith("different; largest differences\n  validation_loss: 0.25\n")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--rerun=nowhere"], "nowhere does not describe a run"),
        (["--rerun=run.json", "--epochs=3"], "--epochs with --rerun"),
    ],
)
def test_what_cannot_be_rerun_exits_with_2(tmp_path, arguments, match):
    result = command_line(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert match in result.stderr


def test_arrays_and_own_models_are_refused(run, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**facts(run), "command": None}))
    with pytest.raises(errors.ConfigError, match="arrays, or of models made in Python"):
        rerun.rerun(tmp_path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_original_is_not_overwritten(run):
    with pytest.raises(errors.OutputError, match="the original's folder"):
        rerun.rerun(run, run)


def changed(ranking, **fields):
    first, *rest = ranking.models
    return dataclasses.replace(ranking, models=(dataclasses.replace(first, **fields), *rest))


def test_elsewhere_the_noise_of_the_validation_part_is_tolerated(run):
    trajectories, ranking = results(run)
    there = facts(run)
    here = {**there, "device": "1 x another"}
    close = tuple(a + 0.02 for a in ranking.best.validation_accuracy)
    far = tuple(min(a + 0.5, 1.0) for a in ranking.best.validation_accuracy)
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


def test_nan_equals_nan_and_nothing_else():
    nan = float("nan")
    assert dict(rerun.deviations_of({"a": nan}, {"a": nan})) == {"a": 0.0}
    assert dict(rerun.deviations_of({"a": nan}, {"a": 1.0})) == {"a": float("inf")}
    assert dict(rerun.deviations_of({"a": [1, 2]}, {"a": [1]})) == {"a": float("inf")}
    assert dict(rerun.deviations_of({"seconds": 1}, {"seconds": 2})) == {}
