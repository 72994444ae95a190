"""`ranking.json` and `ranking.csv`: the stated schema, strict, read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib

import pytest

from ncap_jax import errors, report
from ncap_jax.options import RankConfig
from ncap_jax.report import finished, ranking_files
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import FunnelStep, LeftOut, Trajectory
from tests.support.costs import priced
from tests.support.finished import finished_run
from tests.support.pool import make_pool

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
    document = json.loads(ranking_files.ranking_to_json(ranking), parse_constant=refuse)
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


def test_what_models_cost_and_who_is_left_out_comes_back(ranking, tmp_path):
    left_out = (LeftOut("big", "9 parameters, more than max_parameters=8"),)
    funnel = (FunnelStep("candidates", 9), FunnelStep("filtered", 8, 0.5))
    whole = dataclasses.replace(priced(ranking, measured=True), left_out=left_out, funnel=funnel)
    report.write(whole, tmp_path)
    back = report.read_ranking(tmp_path)
    assert back.funnel == funnel
    assert [row.cost for row in back.models] == [row.cost for row in whole.models]
    assert back.left_out == left_out
    document = json.loads((tmp_path / "ranking.json").read_text())
    assert document["smallest_within_one_point"] == whole.smallest.name
    assert document["left_out"] == [
        {"name": "big", "reason": "9 parameters, more than max_parameters=8", "step": "filter"}
    ]
    first, *_ = csv.DictReader((tmp_path / "ranking.csv").read_text().splitlines())
    assert (first["parameters"], first["flops"]) == ("1000000", "2000000.0")
    assert float(first["latency_ms"]) == pytest.approx(2.0)
    assert float(first["images_per_second"]) == pytest.approx(1280)
    assert first["licence"] == "Apache-2.0"


def test_a_ranking_of_a_version_that_knew_no_costs_is_read(ranking, tmp_path):
    document = json.loads(ranking_files.ranking_to_json(ranking))
    for name in ("smallest_within_one_point", "left_out", "funnel"):
        del document[name]
    del document["config"]["metric"]
    for row in document["models"]:
        del row["cost"]
    (tmp_path / "ranking.json").write_text(json.dumps(document))
    assert repr(report.read_ranking(tmp_path).models) == repr(ranking.models)
    assert report.read_ranking(tmp_path).config == ranking.config


def test_the_winner_is_in_the_reports_alone(ranking, tmp_path):
    bare = dataclasses.replace(ranking, trajectories=())
    report.write(bare, tmp_path)
    files = ("ranking.json", "ranking.csv", "report.html", "report.md")
    before = {name: (tmp_path / name).read_text() for name in files}
    run = finished_run(wrong=())
    report.write(bare, tmp_path, run)
    for name in files[:2]:
        assert (tmp_path / name).read_text() == before[name]
    for name in files[2:]:
        assert "ncap.finish(ranking)" in before[name]
        assert finished.uses(run.folder).shell in (tmp_path / name).read_text()


def test_csv(ranking):
    rows = list(csv.DictReader(io.StringIO(ranking_files.ranking_to_csv(ranking))))
    assert [r["name"] for r in rows] == [r.name for r in ranking.models]
    assert float(rows[0]["predicted_accuracy"]) == ranking.best.predicted_accuracy
    series = [float(v) for v in rows[0]["validation_accuracy"].split()]
    assert tuple(series) == ranking.best.validation_accuracy
    assert rows[-1]["rank"] == rows[-1]["std"] == ""
    assert rows[3]["message"] == 'loss "NaN", epoch 3'


def test_unwritable_folder(ranking, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(errors.OutputError) as error:
        report.write(ranking, blocked)
    assert error.value.cause == f"cannot write {blocked / 'ranking.json'}: File exists"
    assert error.value.remedy == "Free space, or choose an output folder that you may write to"


@pytest.mark.parametrize(
    ("content", "cause", "remedy"),
    [
        (None, "cannot read {file}: No such file or directory", "Rank models first"),
        ("not json", "{file} is not a ranking: JSONDecodeError", "Rank the models again"),
        ("[]", "{file} is not a ranking: AttributeError", "Rank the models again"),
        ('{"schema": 1}', "{file} is not a ranking: KeyError('dataset')", "Rank the models again"),
        (
            '{"schema": 2}',
            "{file} has schema 2, but this version of ncap_jax reads schema 1",
            "Read it with the version of ncap_jax that wrote it",
        ),
    ],
)
def test_reading_what_is_not_a_ranking(
    tmp_path: pathlib.Path, content: str | None, cause: str, remedy: str
):
    file = tmp_path / "ranking.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(errors.OutputError) as error:
        report.read_ranking(tmp_path)
    assert error.value.cause.startswith(cause.format(file=file))
    assert error.value.remedy == remedy
