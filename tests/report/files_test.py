"""`ranking.json` and `ranking.csv`: the stated schema, strict, atomic, read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os

import numpy as np
import pytest

from ncap_jax import errors, report
from ncap_jax.report import files
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import RankConfig, Trajectory
from tests.predictor.pool import make_pool

# The format as it is promised; other keys may stand beside these.
PROMISED = [
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
]


@pytest.fixture
def ranking():
    pool = make_pool(models=4)
    pool[1] = dataclasses.replace(pool[1], status="diverged", message='loss "NaN", epoch 3')
    pool.append(Trajectory("empty", "probe", (), "out_of_memory", "needs 20 GiB"))
    return rank_trajectories(pool, "synthetic", RankConfig(seed=3))


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict_and_has_the_promised_fields(ranking):
    document = json.loads(files.ranking_to_json(ranking), parse_constant=refuse)
    assert document["schema"] == 1
    assert document["dataset"] == "synthetic"
    assert document["config"]["seed"] == 3
    assert [m["rank"] for m in document["models"]] == [1, 2, 3, None, None]
    for row in document["models"]:
        assert not [key for key in PROMISED if key not in row]
    last = document["models"][-1]
    assert last["predicted_accuracy"] is None
    assert last["beta_eff"] == []


def test_round_trip(ranking, tmp_path):
    report.write(ranking, tmp_path)
    for path in (tmp_path, tmp_path / "ranking.json"):
        back = report.read_ranking(path)
        assert repr(back.models) == repr(ranking.models)
        assert back.config == ranking.config
        assert (back.dataset, back.predictor) == (ranking.dataset, ranking.predictor)
        assert str(back) == str(ranking)


def test_csv(ranking):
    rows = list(csv.DictReader(io.StringIO(files.ranking_to_csv(ranking))))
    assert [r["name"] for r in rows] == [r.name for r in ranking.models]
    assert float(rows[0]["predicted_accuracy"]) == ranking.best.predicted_accuracy
    series = [float(v) for v in rows[0]["validation_accuracy"].split()]
    assert tuple(series) == ranking.best.validation_accuracy
    assert rows[-1]["rank"] == rows[-1]["std"] == ""
    assert rows[3]["message"] == 'loss "NaN", epoch 3'


def test_numpy_and_non_finite_become_json():
    value = {"a": np.float32(0.5), "b": (float("inf"), np.int64(3)), "c": float("nan"), "d": True}
    assert files.strict(value) == {"a": 0.5, "b": [None, 3], "c": None, "d": True}


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "ranking.json"
    files.write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(errors.OutputError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["ranking.json"]


def test_written_files_have_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    files.write_atomically(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


def test_unwritable_folder(ranking, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(errors.OutputError, match="cannot write"):
        report.write(ranking, blocked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("not json", "not a ranking"),
        ("[]", "not a ranking"),
        ('{"schema": 1}', "not a ranking"),
        ('{"schema": 2}', "schema 2"),
    ],
)
def test_reading_what_is_no_ranking(tmp_path, content, message):
    if content is not None:
        (tmp_path / "ranking.json").write_text(content)
    with pytest.raises(errors.OutputError, match=message):
        report.read_ranking(tmp_path)
