"""The main job: interrupted runs resume to the same result, finished models are not run again."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import loop, trajectory_files
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import pipeline, stopwatch, worker
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.model_files import ModelFiles
from tests.support import fake_training, toy_runs
from tests.support.photos import write_class
from tests.support.small import small_config
from tests.support.toy_runs import CONFIG, POOL, digits, interrupted, rank, timeless
from tests.support.two_processes import TwoProcesses

# For training that is fake.
LINEAR = dataclasses.replace(CONFIG, head="linear")
STREAMED = RankConfig(epochs=3, weights="random", trial_rates=())


@pytest.fixture(scope="module")
def whole():
    """The run that nothing interrupts."""
    return timeless(rank())


@pytest.mark.parametrize(
    ("method", "calls"),
    [("append", 1), ("append", 2), ("save", 1), ("save", 3), ("append", 4), ("finish", 1)],
)
def test_resumed_equals_uninterrupted(whole, tmp_path, method, calls):
    interrupted(tmp_path, calls, method)
    assert timeless(rank(tmp_path)) == whole
    for spec in POOL[:2]:
        lines = (tmp_path / trajectory_files.FOLDER / f"{spec.name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]


def test_finished_models_are_never_redone(whole, tmp_path, monkeypatch):
    rank(tmp_path)
    monkeypatch.setattr(worker, "finetune_one", None)
    assert timeless(rank(tmp_path)) == whole


@pytest.mark.parametrize("damage", ["torn line", "checkpoint", "no checkpoint", "ledger"])
def test_damage_costs_time_only(whole, tmp_path, damage):
    interrupted(tmp_path, 2, "save")
    trajectory = tmp_path / trajectory_files.FOLDER / "toy_1.jsonl"
    checkpoint = tmp_path / "checkpoints" / "toy_1"
    if damage == "torn line":
        trajectory.write_text(trajectory.read_text()[:-40])
    elif damage == "checkpoint":
        for file in checkpoint.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    elif damage == "no checkpoint":
        Checkpoints(checkpoint).remove()
    else:
        (tmp_path / "ledger.jsonl").write_text('{"model": "toy_1", "sta')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        resumed = rank(tmp_path)
    again = [w for w in caught if str(w.message).startswith("toy_1 starts again: ")]
    assert bool(again) == (damage == "checkpoint")
    assert timeless(resumed) == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": small_config(epochs=4, seed=1)}, "config.seed was 0, is 1"),
        ({"data_config": DataConfig(max_train=50)}, "data.config.max_train was null, is 50"),
    ],
)
def test_another_run_is_refused_and_the_field_is_named(tmp_path, changes, named):
    arguments = {"models": POOL[:2], "config": CONFIG, "data_config": DataConfig()}
    interrupted(tmp_path, 1, "append")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(errors.OutputError) as error:
        ncap.rank_models(**{**arguments, **changes}, dataset=digits(), output_dir=tmp_path)
    assert error.value.cause.startswith(f"{tmp_path} holds another run; different: ")
    assert named in error.value.cause
    assert error.value.remedy == "Choose another folder, or repeat the same run to resume it"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def stream(photos, folder):
    """Rank two toys on image files that are decoded when they are needed."""
    return ncap.rank_models(
        POOL[:2],
        photos,
        STREAMED,
        folder,
        data_config=DataConfig(stream=True),
        show_progress=False,
    )


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Image files of equal size; training is fake, but looks at them in every epoch."""
    for name in ("a", "b"):
        write_class(tmp_path / "photos" / name, 5, suffix="bmp")
    fake_training.install(monkeypatch)

    def looking(tuning, state, epoch):
        tuning.feed.subset(np.arange(len(tuning.feed.labels)))
        return fake_training.advance(tuning, state, epoch)

    monkeypatch.setattr(loop, "advance", looking)
    return tmp_path / "photos"


def repaint(path):
    """Other pixels under the same name, of the same size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-30] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_streamed_run_resumes_on_the_same_pixels_alone(photos, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    whole = timeless(stream(photos, None))
    with monkeypatch.context() as patch:
        toy_runs.stop_after(patch, 2, "append")
        with pytest.raises(toy_runs.Stop):
            stream(photos, folder)
    image = photos / "a" / "002.bmp"
    before = image.read_bytes()
    repaint(image)
    with pytest.raises(errors.OutputError) as error:
        stream(photos, folder)
    assert error.value.cause.startswith(f"{folder} holds another run; different: data.sha256 was ")
    assert error.value.remedy == "Choose another folder, or repeat the same run to resume it"
    image.write_bytes(before)
    moved = shutil.copytree(photos, tmp_path / "copy" / "photos")
    assert timeless(stream(moved, folder)) == whole


def test_an_image_that_changes_ends_a_streamed_run_which_loses_nothing(
    photos, tmp_path, monkeypatch
):
    folder, image = tmp_path / "run", photos / "b" / "003.bmp"
    whole, before = timeless(stream(photos, None)), image.read_bytes()
    append = ModelFiles.append

    def changing(self, model, record):
        append(self, model, record)
        if (model, record.epoch) == ("toy_2", 1):
            repaint(image)

    with monkeypatch.context() as patch:
        patch.setattr(ModelFiles, "append", changing)
        with pytest.raises(errors.ChangedDataError) as error:
            stream(photos, folder)
    assert error.value.cause == f"{image} has changed since the run began"
    assert error.value.remedy == (
        "Restore it and repeat the run, which resumes in its folder, or start another run"
    )
    lines = (folder / "trajectories" / "toy_2.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    image.write_bytes(before)
    assert timeless(stream(photos, folder)) == whole


def test_failed_models_are_tried_again(whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.ahead, "threads", lambda: 0)  # one start for each model
        toy_runs.instead(
            patch, worker.training, "start", {1, 2}, lambda: RuntimeError("the device is gone")
        )
        first = rank(tmp_path)
    assert {(row.status, row.message) for row in first.models} == {
        ("failed", "RuntimeError: the device is gone")
    }
    assert timeless(rank(tmp_path)) == whole


def test_a_run_says_first_that_its_validation_part_is_small(monkeypatch):
    fake_training.install(monkeypatch)
    few = dataclasses.replace(
        digits(),
        validation_images=digits().validation_images[:1],
        validation_labels=digits().validation_labels[:1],
    )
    with pytest.warns(UserWarning, match=r"^1 validation image only: .* up to 50 points\. Give "):
        ranking = ncap.rank_models(POOL[:1], few, STREAMED, show_progress=False)
    assert ranking.best.message.endswith(
        "1 validation image only: the standard error of an accuracy is up to 50 points, "
        "so leads over the other models are trusted less"
    )


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rank()
    assert not list(tmp_path.iterdir())


def test_a_run_that_pauses_without_a_folder_has_a_temporary_one():
    """States must outlast the pauses of halving, workers, and the run if it is to be finished."""
    bare = dataclasses.replace(LINEAR, keep_states=0)
    assert not pipeline.needs_folder(bare)
    assert pipeline.open_place(request(bare), {}, bare) == (None, None)
    for changes in (
        *({"strategy": "race"}, {"strategy": "halving"}, {"executor": "processes"}),
        *({"epochs_budget": 9}, {"keep_states": 1}),
    ):
        assert pipeline.needs_folder(dataclasses.replace(bare, **changes)), changes
    facts = {"config": {}, "models": {"a": None}, "data": {}}
    place = pipeline.open_place(request(LINEAR), facts, LINEAR)
    with place.folder as folder:
        assert (folder.path / "run.json").is_file()
        assert folder.recorded() == {}
    del place
    gc.collect()
    assert not folder.path.exists()


def request(config):
    """Of a run without a folder."""
    return pipeline.Request(POOL[:1], digits(), config, DataConfig())


def states(folder):
    """The models whose states are in a run's folder."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("listed", "left"), [(1, ["toy_1"]), (3, ["toy_1", "toy_2", "toy_3"])], ids=["one", "all"]
)
def test_states_of_the_first_and_of_the_shortlist_are_kept(monkeypatch, listed, left):
    fake_training.install(monkeypatch)
    cover = "ncap_jax.selection.shortlist.smallest_cover"
    monkeypatch.setattr(cover, lambda good: list(range(listed)))
    ranking = rank(config=dataclasses.replace(LINEAR, keep_states=1), models=3)
    assert [row.name for row in ranking.models] == ["toy_1", "toy_2", "toy_3"]
    assert states(ranking.source.folder) == left
    for name in left:
        assert ModelFiles(ranking.source.folder).checkpoints(name).latest() == LINEAR.epochs


def test_no_state_is_kept_if_none_is_wanted(monkeypatch):
    fake_training.install(monkeypatch)
    assert rank(config=dataclasses.replace(LINEAR, keep_states=0)).source.folder is None


def test_a_ranking_in_memory_keeps_states_as_long_as_it_lives(monkeypatch):
    fake_training.install(monkeypatch)
    ranking = rank(config=LINEAR)
    folder = ranking.source.folder
    assert states(folder) == ["toy_1", "toy_2"]
    assert pickle.loads(pickle.dumps(ranking)).source is None
    del ranking
    gc.collect()
    assert not folder.exists()


def test_the_time_of_all_calls_is_told(tmp_path, monkeypatch):
    """Also of one that was stopped."""
    fake_training.install(monkeypatch)
    with monkeypatch.context() as patch:
        toy_runs.stop_after(patch, 3, "append")
        with pytest.raises(toy_runs.Stop):
            rank(tmp_path, LINEAR)
    stopped = stopwatch.read(tmp_path)
    resumed = rank(tmp_path, LINEAR).info.seconds
    assert 0 < stopped < resumed <= stopwatch.read(tmp_path) < rank(tmp_path, LINEAR).info.seconds


def test_what_is_made_where(tmp_path):
    """Of a run without a folder the work is made from the job alone; else it knows the folder."""
    job = pipeline.Job(tuple(POOL[:1]), digits(), CONFIG)
    makers = pipeline.makers(job, None)
    assert makers.here().files is makers.elsewhere().files is None
    with RunFolder(tmp_path, {"config": {}, "models": {"toy_1": None}, "data": {}}) as folder:
        makers = pipeline.makers(job, folder)
        here, elsewhere = makers.here(), makers.elsewhere()
        assert here.files is folder.files
        assert elsewhere.files.path == folder.path
        assert here.shared
        assert elsewhere.shared  # the folder was found by its run.json


def test_two_processes_rank_alike_and_one_writes(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    config = dataclasses.replace(CONFIG, head="linear", mesh="data:1")
    both = TwoProcesses(monkeypatch)

    def full():
        return errors.OutputError("the disk is full", "Free space")

    with monkeypatch.context() as patch:
        toy_runs.instead(patch, Checkpoints, "_save", {2}, full)
        outcomes = both(lambda: rank(tmp_path, config, models=1))
    assert [type(error) for error in outcomes] == [errors.OutputError] * 2
    assert not (tmp_path / "ranking.json").exists()
    resumed = both(lambda: rank(tmp_path, config, models=1))
    assert toy_runs.rows(resumed[0]) == toy_runs.rows(resumed[1])
    lines = (tmp_path / "trajectories" / "toy_1.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "ranking.json").read_text())["models"][0]["name"] == "toy_1"
