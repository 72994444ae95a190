"""From a ranking to a model: what is trained, what is kept, what a kill and a full disk leave."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.run import finishing as subject
from ncap_jax.run import judging
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.winner import convergence, facts, training
from ncap_jax.winner.facts import LEAKS
from tests.support import finishing, toy_runs
from tests.support.finishing import finish


@pytest.fixture(scope="module")
def ranking():
    """Of three toys, without a folder of its own; nobody else finishes it."""
    return finishing.rank()


@pytest.fixture(scope="module")
def whole(ranking, tmp_path_factory):
    """Its folder, finished by one call, and the winner."""
    folder = finishing.in_folder(ranking, tmp_path_factory.mktemp("whole") / "run")
    return folder, finish(folder)


@pytest.fixture
def folder(ranking, tmp_path):
    """A folder with the ranking alone."""
    return finishing.in_folder(ranking, tmp_path / "run")


def trajectory(folder, name):
    return trajectory_files.read(folder / "finish" / trajectory_files.FOLDER / f"{name}.jsonl")


def test_the_first_models_go_on_from_where_the_ranking_left_them(whole):
    first, second = finishing.NAMES
    for name in (first, second):
        records = trajectory(whole[0], name)
        before = trajectory_files.read(whole[0] / trajectory_files.FOLDER / f"{name}.jsonl")
        assert repr(records[:3]) == repr(before)
        assert [record.epoch for record in records] == list(range(len(records)))
        assert 3 < len(records) <= 7
    names = {path.stem for path in (whole[0] / "finish" / trajectory_files.FOLDER).iterdir()}
    assert names == {first, second}


def test_the_winner_is_the_best_epoch_of_the_best_model(whole):
    folder, winner = whole
    ends = {name: trajectory(folder, name)[2:] for name in finishing.NAMES}
    best = {name: records[convergence.best(records)] for name, records in ends.items()}
    name = max(best, key=lambda each: convergence.merit(best[each]))
    assert winner.name == name
    assert winner.validation_accuracy == pytest.approx(best[name].validation_accuracy, abs=1e-6)
    chosen = winner.facts.chosen["finished"]
    assert {n: c["best epoch"] for n, c in chosen.items()} == {n: r.epoch for n, r in best.items()}
    # The toys are such that this says something.
    assert [record.epoch for record in best.values()] == [3, 6]
    assert [records[-1].epoch for records in ends.values()] == [6, 6]


def test_the_folder_holds_the_model_which_answers_alike_when_it_is_loaded(whole):
    folder, winner = whole
    loaded = ncap.load(folder / "winner", spec=toy_runs.POOL[0])
    for part, images, labels in (
        ("validation", finishing.data().validation_images, finishing.data().validation_labels),
        ("test", finishing.data().test_images, finishing.data().test_labels),
    ):
        assert loaded.evaluate((images, labels)) == winner.facts.metrics[part]
    assert winner.facts.metrics["test"].count == 40
    assert loaded.test_accuracy == winner.test_accuracy


def test_test_images_that_were_trained_on_are_told(whole, tmp_path, monkeypatch):
    assert whole[1].facts.data[LEAKS] == 0
    folder, digits = shutil.copytree(whole[0], tmp_path / "run"), finishing.data()
    some = {"test_images": digits.images[:7], "test_labels": digits.labels[:7]}
    monkeypatch.setattr(finishing, "data", lambda: dataclasses.replace(digits, **some))
    monkeypatch.setattr(training, "train", None)
    with pytest.warns(UserWarning, match="^7 of 7 test images are also among the training"):
        finish(folder, top=1)
    assert ncap.load(folder / "winner", spec=toy_runs.POOL[0]).facts.leaks == 7
    assert "Of the test images, 7 are also in the training" in (
        folder / "winner" / "README.md"
    ).read_text(encoding="utf-8")


def test_what_could_not_be_saved_is_refused_before_it_is_trained(folder, monkeypatch):
    monkeypatch.setattr(training, "train", None)
    monkeypatch.setattr(facts, "MAX_CLASSES", 9)
    with pytest.raises(errors.PackageError) as error:
        finish(folder)
    assert error.value.cause.startswith("toy_1 could not be saved once it is finished: class_names")
    assert not (folder / "finish").exists()


def test_the_ranking_in_memory_gives_the_same_model(ranking, whole):
    """It writes no model, for its folder goes with it."""
    winner = finish(ranking)
    images = finishing.data().test_images
    np.testing.assert_array_equal(winner.logits(images), whole[1].logits(images))
    assert not (ranking.source.folder / "winner").exists()


def test_a_finish_that_is_stopped_before_its_model_is_written(whole, folder, monkeypatch):
    """Kills while models train: tests/robustness/faults_test.py."""
    with monkeypatch.context() as patch:
        toy_runs.after(patch, judging, "judged", 1, toy_runs.Stop)
        with pytest.raises(toy_runs.Stop):
            finish(folder)
    assert not (folder / "winner").exists()
    finish(folder)
    assert finishing.files(folder) == finishing.files(whole[0])


def test_what_is_finished_is_not_trained_again(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(training, "train", None)
    shutil.rmtree(folder / "checkpoints")  # whoever frees disk space keeps the model
    finish(folder)
    assert finishing.files(folder) == finishing.files(whole[0])
    finish(folder, top=1)  # fewer are compared
    assert json.loads((folder / "winner" / "model.json").read_text())["name"] == "toy_1"


def test_states_that_are_gone_are_named_before_any_training(folder, monkeypatch):
    shutil.rmtree(folder / "checkpoints")
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(errors.OutputError) as error:
        finish(folder)
    assert error.value.cause == "the fine-tuned state of toy_1, toy_3 was not kept"
    assert error.value.remedy == "Rank again in another folder with keep_states=2"
    assert not (folder / "finish").exists()


def test_one_more_model_is_trained_alone(whole, tmp_path, monkeypatch):
    folder, trained = shutil.copytree(whole[0], tmp_path / "run"), []
    real = training.train

    def train(course, state, records):
        trained.append(course.training.candidate.name)
        return real(course, state, records)

    monkeypatch.setattr(training, "train", train)
    winner = finish(folder, top=3)
    assert set(trained) == {"toy_2"}
    assert set(winner.facts.chosen["finished"]) == {"toy_1", "toy_2", "toy_3"}


def test_a_full_disk_leaves_the_package_whole_or_absent(whole, folder, monkeypatch):
    """The disk fills while the weights are written."""
    real = pathlib.Path.write_bytes

    def full(self, content):
        if self.name == "model.safetensors":
            real(self, content[:100])
            raise OSError(28, "No space left on device")
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(errors.OutputError) as error:
            finish(folder)
    assert "No space left on device" in error.value.cause
    assert error.value.remedy.startswith("Free space")
    assert [p.name for p in folder.iterdir() if "winner" in p.name] == []
    finish(folder)
    assert finishing.files(folder) == finishing.files(whole[0])


def test_a_model_that_breaks_costs_the_others_nothing(whole, folder, monkeypatch):
    real = training.train

    def train(course, state, records):
        if course.training.candidate.name == whole[1].name:
            raise RuntimeError("the device is gone")
        return real(course, state, records)

    monkeypatch.setattr(training, "train", train)
    with pytest.warns(UserWarning, match=f"^{whole[1].name} is left out: the device is gone$"):
        winner = finish(folder)
    (other,) = {*finishing.NAMES} - {whole[1].name}
    assert winner.name == other


def test_if_all_break_their_causes_are_told(folder, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(training, "train", broken)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(errors.ModelError) as error:
        finish(folder, top=1)
    assert error.value.cause == "no model could be finished: toy_1: the device is gone"
    assert error.value.remedy == "See the causes, or rank again in another folder"


def test_a_damaged_end_is_made_again(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(folder / "winner")
    for file in (folder / "finish" / "best" / "toy_1").rglob("d/*"):
        file.write_bytes(b"")
    states = folder / "checkpoints"
    states.rename(tmp_path / "states")  # without which there is nothing to go on from
    again = pytest.warns(UserWarning, match="^toy_1 is finished again: the checkpoint of epoch")
    with again, pytest.raises(errors.OutputError) as error:
        finish(folder)
    assert error.value.cause == "the fine-tuned state of toy_1 was not kept"
    assert error.value.remedy == "Rank again in another folder with keep_states=1"
    (tmp_path / "states").rename(states)
    finish(folder)
    assert finishing.files(folder) == finishing.files(whole[0])


def test_after_probes_models_begin_with_the_pretrained_weights(folder, monkeypatch):
    """With a linear head they train the ranking's epochs first; a kill between costs nothing.

    That the ranking had probes is all that is looked at.
    """
    for name in ("run.json", "ranking.json"):
        content = json.loads((folder / name).read_text())
        content["config"] |= {"head": "probe", "beta_eff": "auto"}
        (folder / name).write_text(json.dumps(content))
    shutil.rmtree(folder / "checkpoints")
    with monkeypatch.context() as patch:
        toy_runs.after(patch, ModelFiles, "append", 2, toy_runs.Stop)
        with pytest.raises(toy_runs.Stop):
            finish(folder, top=1)
    assert finish(folder, top=1).facts.head == "linear"
    before = trajectory_files.read(folder / "finish" / "start" / "trajectories" / "toy_1.jsonl")
    ranked = trajectory_files.read(folder / "trajectories" / "toy_1.jsonl")
    assert [r.validation_loss for r in before] == [r.validation_loss for r in ranked]
    assert repr(trajectory(folder, "toy_1")[:3]) == repr(before)


def test_what_trains_follows_from_the_options(folder, monkeypatch):
    """The ranking's program is used where nothing differs, so that it is compiled once."""
    programs = []
    real = training.converge

    def converge(course, *arguments, **options):
        programs.append((course.training.candidate.program, course.judging.candidate.program))
        return real(course, *arguments, **options)

    monkeypatch.setattr(training, "converge", converge)
    finish(folder, top=1)
    ((trains, judges),) = programs
    assert trains == judges
    shutil.rmtree(folder / "finish")
    with monkeypatch.context() as patch:
        patch.setattr(subject, "effort_for", lambda runs: "full" if runs == 12 else "least")
        patch.setattr(
            training, "converge", lambda course, *a, **o: programs.append(course) or 1 / 0
        )
        with pytest.warns(UserWarning, match="left out"), pytest.raises(errors.ModelError):
            finish(folder, top=1, augment="recommended", freeze_stages=2, class_weights="balanced")
    program = programs[-1].training.candidate.program
    assert program.effort == "full"  # 4 epochs of 3 steps
    assert program.augment.crop == 1
    assert len(program.class_weights) == 10
    assert sum(program.held) == 2  # of three
