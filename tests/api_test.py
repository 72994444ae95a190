"""The main job through the public API: files, isolation, reproducibility, refusals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import ncap_jax as ncap
from ncap_jax import api, environment, errors
from ncap_jax.types import DataConfig, Dataset, ModelSpec, RankConfig
from ncap_jax.zoo import find_models
from tests.report.tensorboard_test import scalars
from tests.small import small_config, small_digits, small_spec

POOL = [small_spec(f"small_{width}", width) for width in (4, 8, 12)]


class Broken(nnx.Module):
    """Builds, but cannot run."""

    def __init__(self, *, rngs, dtype=None):
        self.dense = nnx.Linear(3, 4, rngs=rngs)

    def features(self, x):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")


class Exploding(nnx.Module):
    """Its features overflow as soon as its weight has moved."""

    def __init__(self, *, rngs, dtype=None):
        self.scale = nnx.Param(jnp.ones(()))

    def features(self, x):
        return jnp.mean(x, axis=(1, 2)) * jnp.exp((self.scale[...] - 1) * 1e12) * 1e30


@pytest.fixture(scope="module")
def digits():
    return small_digits()


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, ncap.rank_models(POOL, digits, small_config(), folder, show_progress=False)


def test_the_files_are_all_there(run):
    folder, _ = run
    assert {path.name for path in folder.iterdir()} >= {
        "run.json",
        "trajectories",
        "ranking.json",
        "ranking.csv",
        "report.html",
    }
    lines = (folder / "trajectories" / "small_4.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


def test_ranking_json_is_as_designed(run):
    folder, ranking = run
    content = json.loads((folder / "ranking.json").read_text())
    assert content["schema"] == 1
    assert content["dataset"] == "small digits"
    assert content["config"]["epochs"] == 2
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
    assert len(first["beta_eff"]) == len(first["validation_accuracy"]) == 3
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


def test_the_command_repeats_the_run():
    specs = find_models(["tiny_plain", "tiny_senet"])
    config = small_config(epochs=3, weights="pretrained")
    assert environment.command(specs, "digits", config, DataConfig()) == (
        "python -m ncap_jax --models=tiny_plain,tiny_senet --dataset=digits --epochs=3 "
        "--head=trainable_probe --trial_rates= --probe_widths=24,16,12"
    )
    assert environment.command(
        specs, "a set/x", RankConfig(), DataConfig("y", stream=False)
    ).endswith("'--dataset=a set/x' --data_dir=y --stream=False")


def test_the_contact_sheet_shows_what_the_model_sees(digits):
    """At the model's size, and with its channel order: a red image is blue to a BGR network."""
    red = np.zeros_like(digits.images)
    red[..., 0] = 200
    dataset = dataclasses.replace(digits, images=red)
    sheets = {
        mode: np.asarray(
            Image.open(
                io.BytesIO(
                    api.sample_sheet(
                        dataclasses.replace(POOL[0], preprocessing=mode, input_size=16),
                        dataset,
                        small_config(),
                    )
                )
            ).convert("RGB")
        )
        for mode in ("unit", "caffe")
    }
    corner = {mode: sheet[2, 2].astype(int) for mode, sheet in sheets.items()}
    assert corner["unit"][0] > corner["unit"][2]
    assert corner["caffe"][2] > corner["caffe"][0]


def test_notes_of_the_data_stage_become_one_line():
    note = {"count": 2, "files": [{"file": "a.png", "reason": "empty"}, {"file": "b.png"}]}
    assert api.in_words(note) == "count: 2, files: file: a.png, reason: empty, file: b.png"
    assert len(api.in_words(list(range(1000)))) == 160


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


def test_same_seed_same_ranking(run, digits):
    _, ranking = run
    again = ncap.rank_models(POOL, digits, small_config(), show_progress=False)
    timeless = [[dataclasses.replace(m, seconds=0.0) for m in r.models] for r in (ranking, again)]
    assert repr(timeless[0]) == repr(timeless[1])  # NaN (no deviation stated) equals NaN there


def test_a_failing_model_does_not_cost_the_others_their_run(digits, tmp_path):
    specs = [
        ModelSpec("memory", Broken, 8, 4),
        ModelSpec("exploding", Exploding, 8, 3),
        ModelSpec("no_weights", lambda **kw: Broken(**kw), 8, 4),
        POOL[0],
        POOL[1],
    ]
    config = small_config(head="linear")
    ranking = ncap.rank_models(specs, digits, config, tmp_path / "run", show_progress=False)
    status = {model.name: model.status for model in ranking.models}
    assert status["memory"] == "out_of_memory"
    assert status["exploding"] == "diverged"
    assert [model.rank for model in ranking.models] == [1, 2, None, None, None]
    assert ranking.best.name in ("small_4", "small_8")
    assert all(model.message for model in ranking.models[2:])
    text = (tmp_path / "run" / "ranking.json").read_text()
    assert "NaN" not in text


def test_pretrained_weights_must_exist(digits):
    ranking = ncap.rank_models(
        [POOL[0], POOL[1]], digits, small_config(weights="pretrained"), show_progress=False
    )
    assert {model.status for model in ranking.models} == {"failed"}
    assert "no pretrained weights" in ranking.models[0].message
    with pytest.raises(errors.ModelError, match="no model could be ranked"):
        _ = ranking.best


def test_tensorboard_is_beside_the_run_not_part_of_it(run, digits, tmp_path):
    """Live in a run of its own; afterwards in a run that was finished without it."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    folder, ranking = run
    for tensorboard, output in ((tmp_path / "live", None), (tmp_path / "later", folder)):
        ncap.rank_models(
            POOL, digits, small_config(), output, show_progress=False, tensorboard=tensorboard
        )
        for trajectory in ranking.trajectories:
            found = scalars(tensorboard / trajectory.model)
            for record in trajectory.records:
                value = found["validation_loss", record.epoch]
                assert value == pytest.approx(record.validation_loss, rel=1e-5)  # float32
    assert "tensorboard" not in (folder / "run.json").read_text()


def test_tensorboard_without_its_package_is_refused_first(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'ncap_jax\[tensorboard\]'"):
        ncap.rank_models(POOL, digits, small_config(), tmp_path / "run", tensorboard=tmp_path)
    assert list(tmp_path.iterdir()) == []


IMAGES = np.zeros((20, 8, 8, 3), np.uint8)
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("models", "dataset", "changes", "error", "match"),
    [
        (["tiny_plan"], "digits", {}, errors.ModelError, "Did you mean tiny_plain"),
        (["huge_*"], "digits", {}, errors.ModelError, "no model matches"),
        ([], "digits", {}, errors.ModelError, "no model is given"),
        ([nnx.Linear(2, 3, rngs=nnx.Rngs(0))], "digits", {}, errors.ModelError, "from_module"),
        (POOL, "digit", {}, errors.DataError, "digits"),
        (POOL, Dataset(IMAGES, LABELS * 2), {}, errors.DataError, "gap|missing|no samples|1"),
        (POOL, Dataset(IMAGES, LABELS[:10]), {}, errors.DataError, "10"),
        (POOL, Dataset(IMAGES, LABELS * 0), {}, errors.DataError, "class"),
        (POOL, Dataset(IMAGES / np.nan, LABELS), {}, errors.DataError, "NaN or infinity"),
        (POOL, "digits", {"epochs": 1, "predictor": "published_ridge"}, errors.ConfigError, "2"),
        (POOL, "digits", {"predictor": "ridge"}, errors.ConfigError, "ridge"),
        (POOL, "digits", {"probe_widths": (8, 8)}, errors.ConfigError, "at least 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input_is_refused_and_nothing_is_written(
    tmp_path, models, dataset, changes, error, match
):
    folder = tmp_path / "run"
    with pytest.raises(error, match=match):
        ncap.rank_models(models, dataset, small_config(**changes), folder, show_progress=False)
    assert not folder.exists()


def test_options_that_are_no_record_are_refused(digits):
    for wrong in ({"config": "probe"}, {"config": {"epochs": 1}}, {"data_config": small_config()}):
        with pytest.raises(errors.ConfigError, match=r"Give ncap_jax\.\w+Config"):
            ncap.rank_models(POOL, digits, **wrong)


def test_public_names_resolve():
    for name in ncap.__all__:
        assert getattr(ncap, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = ncap.nothing_like_this
