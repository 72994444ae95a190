"""The main job through the public API: files, isolation, reproducibility, refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.options import DataConfig, RankConfig, shown
from ncap_jax.types import Dataset
from tests.support import command_line, fake_training, toy_runs
from tests.support.event_files import scalars
from tests.support.small import small_config
from tests.support.toy_runs import POOL, digits, rank, timeless


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, rank(folder, models=3)


def test_the_files_are_all_there(run):
    folder, _ = run
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "ledger.jsonl",
        "time.json",
        "trajectories",
        "checkpoints",
        "ranking.json",
        "ranking.csv",
        "report.html",
        "report.md",
        ".lock",
    }
    lines = (folder / "trajectories" / "toy_1.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]


def test_ranking_json_is_as_designed(run):
    folder, ranking = run
    content = json.loads((folder / "ranking.json").read_text())
    assert content["schema"] == 1
    assert content["dataset"] == "small digits"
    assert content["config"]["epochs"] == 3
    assert [m["rank"] for m in content["models"]] == [1, 2, 3]
    first = content["models"][0]
    assert {
        "name",
        "status",
        "rank",
        "predicted_accuracy",
        "std",
        "best_seen",
        "last_seen",
        "epochs",
        "beta_eff",
        "validation_accuracy",
        "seconds",
        "message",
    } <= set(first)
    assert first["name"] == ranking.best.name
    assert len(first["beta_eff"]) == len(first["validation_accuracy"]) == 4
    with (folder / "ranking.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [
            m["name"] for m in content["models"]
        ]


def test_run_json_says_what_the_run_was_made_with(run):
    folder, _ = run
    content = json.loads((folder / "run.json").read_text())
    assert content["config"]["weights"] == "random"
    assert list(content["models"]) == [s.name for s in POOL]
    assert content["versions"]["jax"]
    assert content["device"]
    assert content["data"]["num_train"] == 96
    assert content["command"] is None  # arrays and own models cannot be said in flags


def test_the_table_names_every_model(run):
    _, ranking = run
    text = str(ranking)
    assert all(spec.name in text for spec in POOL)


def test_trajectories_on_disk_give_the_same_ranking(run):
    folder, ranking = run
    again = ncap.rank_trajectories(ncap.load_trajectories(folder), ranking.dataset, ranking.config)
    assert [m.name for m in again.models] == [m.name for m in ranking.models]
    assert [m.predicted_accuracy for m in again.models] == [
        m.predicted_accuracy for m in ranking.models
    ]


def test_same_seed_same_ranking(run):
    _, ranking = run
    assert timeless(rank(models=3)) == timeless(ranking)


def test_another_seed_another_order_of_batches(run):
    _, ranking = run
    again = rank(config=small_config(epochs=3, seed=1), models=3)
    assert timeless(again) != timeless(ranking)


def test_pretrained_weights_must_exist(tmp_path):
    """All that are missing are named, before anything is written."""
    with pytest.raises(errors.WeightsError) as error:
        rank(tmp_path / "run", small_config(weights="pretrained"))
    assert error.value.cause == (
        "the weights of 2 of 2 models are missing:\n"
        "  toy_1: its ModelSpec names none\n"
        "  toy_2: its ModelSpec names none"
    )
    assert not list(tmp_path.iterdir())


def test_where_all_models_fail_there_is_no_best(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"")
    spec = dataclasses.replace(POOL[0], weights=str(tmp_path / "damaged.safetensors"))
    config = small_config(weights="pretrained")
    ranking = ncap.rank_models(spec, digits(), config, show_progress=False)
    assert [model.status for model in ranking.models] == ["failed"]
    assert "damaged.safetensors" in ranking.models[0].message
    with pytest.raises(errors.ModelError) as error:
        _ = ranking.best
    assert error.value.cause == "no model could be ranked"


def test_tensorboard_is_beside_the_run_not_part_of_it(run, tmp_path):
    """Live in a run of its own; afterwards in a run that was finished without it."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    folder, ranking = run
    for tensorboard, output in ((tmp_path / "live", None), (tmp_path / "later", folder)):
        ncap.rank_models(
            POOL, digits(), toy_runs.CONFIG, output, show_progress=False, tensorboard=tensorboard
        )
        for trajectory in ranking.trajectories:
            found = scalars(tensorboard / trajectory.model)
            for record in trajectory.records:
                value = found["validation_loss", record.epoch]
                assert value == pytest.approx(record.validation_loss, rel=1e-5)  # float32
    assert "tensorboard" not in (folder / "run.json").read_text()


def test_tensorboard_without_its_package_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(errors.ConfigError) as error:
        ncap.rank_models(POOL, digits(), small_config(), tmp_path / "run", tensorboard=tmp_path)
    assert "pip install 'ncap_jax[tensorboard]'" in error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_only_where_it_is_wanted(capsys, monkeypatch):
    fake_training.install(monkeypatch)
    config = RankConfig(epochs=1, weights="random", trial_rates=())
    ncap.rank_models(POOL[:1], digits(), config, show_progress=False)
    assert capsys.readouterr().err == ""
    ncap.rank_models(POOL[:1], digits(), config)
    assert "toy_1: epoch 1/1" in capsys.readouterr().err


IMAGES = np.zeros((20, 8, 8, 3), np.uint8)
LABELS = np.arange(20) % 2


def refusal(call):
    """The error of a call, of whatever stage."""
    with pytest.raises(errors.NcapError) as error:
        call()
    return error.value


@pytest.mark.parametrize(
    ("models", "error", "cause", "remedy"),
    [
        (["tiny_plan"], errors.ModelError, "unknown model 'tiny_plan'", "Did you mean tiny_plain"),
        (["huge_*"], errors.ModelError, "no model matches 'huge_*'", "See the names with"),
        ([], errors.ModelError, "no model is given", "Give at least one name"),
        (
            [nnx.Linear(2, 3, rngs=nnx.Rngs(0))],
            errors.ModelError,
            "a Linear is neither a name nor a ModelSpec",
            "Wrap it with ncap_jax.from_module",
        ),
    ],
)
def test_models_that_cannot_be_are_refused(tmp_path, models, error, cause, remedy):
    folder = tmp_path / "run"
    found = refusal(lambda: ncap.rank_models(models, "digits", small_config(), folder))
    assert type(found) is error
    assert found.cause.startswith(cause)
    assert found.remedy.startswith(remedy)
    assert not folder.exists()


@pytest.mark.parametrize(
    "dataset",
    [
        "digit",
        Dataset(IMAGES, LABELS * 2),
        Dataset(IMAGES, LABELS[:10]),
        Dataset(IMAGES, LABELS * 0),
        Dataset(IMAGES + np.nan, LABELS),
    ],
)
def test_what_the_data_stage_refuses_is_raised_and_nothing_is_written(tmp_path, dataset):
    folder = tmp_path / "run"
    expected = refusal(lambda: ncap.load_dataset(dataset))
    found = refusal(lambda: ncap.rank_models(POOL, dataset, small_config(), folder))
    assert type(found) is errors.DataError
    assert (found.cause, found.remedy) == (expected.cause, expected.remedy)
    assert found.remedy
    assert not folder.exists()


@pytest.mark.parametrize(
    ("config", "cause", "remedy"),
    [
        ("probe", "'probe' is not a RankConfig", "Give ncap_jax.RankConfig(...)"),
        ({"epochs": 1}, "{'epochs': 1} is not a RankConfig", "Give ncap_jax.RankConfig(...)"),
        ({}, "{} is not a RankConfig", "Give ncap_jax.RankConfig(...)"),
        (
            DataConfig(),
            f"{shown(DataConfig())} is not a RankConfig",
            "Give ncap_jax.RankConfig(...)",
        ),
        (RankConfig(epochs=0), "epochs=0", "Give a whole number of at least 1"),
        (RankConfig(epochs=True), "epochs=True is not a whole number", "The default is 5"),
        (
            RankConfig(strategy="halve"),
            "unknown strategy 'halve'",
            "Did you mean halving",
        ),
        (RankConfig(time_budget=-1.0), "time_budget=-1.0", "Give a positive number of seconds"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, config, cause, remedy):
    folder = tmp_path / "run"
    error = refusal(lambda: ncap.rank_models(POOL, digits(), config, folder))
    assert type(error) is errors.ConfigError
    assert (error.cause, error.remedy) == (cause, remedy)
    assert not folder.exists()


def test_a_pair_of_arrays_is_ranked_on(monkeypatch):
    fake_training.install(monkeypatch)
    config = RankConfig(epochs=1, weights="random", trial_rates=())
    images, labels = IMAGES, LABELS
    rankings = [
        ncap.rank_models(POOL[:2], dataset, config, show_progress=False)
        for dataset in ((images, labels), [images, labels.tolist()], Dataset(images, labels))
    ]
    assert {ranking.dataset for ranking in rankings} == {"arrays"}
    assert timeless(rankings[0]) == timeless(rankings[1]) == timeless(rankings[2])


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist()])
def test_images_and_labels_as_two_arguments_are_refused(tmp_path, labels):
    folder = tmp_path / "run"
    error = refusal(lambda: ncap.rank_models(POOL, IMAGES, labels, folder))
    assert type(error) is errors.DataError
    assert error.cause == "images and labels are given as two arguments"
    assert error.remedy == "Give (images, labels) as one pair"
    error = refusal(lambda: ncap.rank_models(POOL, "digits", labels))
    assert type(error) is errors.ConfigError
    assert error.cause == f"{shown(labels)} is not a RankConfig"
    assert not folder.exists()


def test_data_options_are_checked_as_well():
    wrong = DataConfig(validation_fraction=2.0)
    error = refusal(lambda: ncap.rank_models(POOL, digits(), data_config=wrong))
    assert error.cause == "validation_fraction=2.0"
    assert error.remedy == "Give a number between 0 and 1, such as 0.2"


def test_public_names_resolve():
    for name in ncap.__all__:
        assert getattr(ncap, name) is not None
    with pytest.raises(AttributeError, match=r"^module 'ncap_jax' has no attribute 'nothing'$"):
        _ = ncap.nothing


CODE = """
import sys
import ncap_jax

def heavy():
    return {"jax", "flax", "optax", "sklearn", "matplotlib", "tensorflow"} & set(sys.modules)

assert not heavy(), heavy()
try:
    ncap_jax.rank_models(["tiny_*"], "digits", ncap_jax.RankConfig(epochs=0))
except ncap_jax.NcapError as error:
    assert error.cause == "epochs=0", error
assert not heavy(), heavy()
try:
    ncap_jax.rank_models(["tiny_plan"], "digits")
except ncap_jax.NcapError as error:
    assert error.cause == "unknown model 'tiny_plan'", error
assert "jax" in sys.modules
assert "tensorflow" not in sys.modules
print("fine")
"""


def test_nothing_heavy_is_imported_before_use():
    """Options are refused without JAX. That whole runs do without TensorFlow: __main___test."""
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        env=command_line.environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.stdout.strip() == "fine", result.stderr
