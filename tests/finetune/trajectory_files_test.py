"""Trajectory files: exact round trip, strict JSON, damage named by line."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.types import ClassCounts, EpochRecord

RECORD = EpochRecord(
    epoch=1,
    train_loss=0.1 + 0.2,
    train_accuracy=1 / 3,
    validation_loss=math.nan,
    validation_accuracy=0.5,
    running_loss=0.7,
    beta_eff={"signed": (1e-300, -2.5)},
    beta_eff_status={"signed": ("ok", "ill_conditioned")},
    seconds=1.5,
    measure_seconds=0.25,
    features="constant",
    validation_counts=ClassCounts((3, 1), ((2, 0), (1, 1)), ((3, 1), (2, 2))),
    steps=16,
)


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "net.jsonl"
    trajectory_files.append(path, RECORD)
    trajectory_files.append(path, RECORD)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] == trajectory_files.line(RECORD)
    assert "NaN" not in lines[0]
    one, two = trajectory_files.read(path)
    assert repr(one) == repr(two) == repr(RECORD)


def test_optional_fields_may_be_missing_or_null():
    fields = trajectory_files.to_json(dataclasses.replace(RECORD, running_loss=None))
    assert fields["validation_loss"] is None
    times, later = ("seconds", "measure_seconds"), ("features", "validation_counts", "steps")
    for name in (*times, "learning_rate", *later):
        del fields[name]
    parsed = trajectory_files.parse(fields)
    assert math.isnan(parsed.validation_loss)
    found = parsed.running_loss, parsed.seconds, parsed.measure_seconds, parsed.learning_rate
    assert found == (None, 0.0, 0.0, None)
    assert parsed.features == ""
    assert parsed.validation_counts is None
    assert parsed.steps is None


@pytest.mark.parametrize("steps", [-1, 1.5, True, "16", [16]])
def test_steps_that_are_no_number_of_steps_are_refused(steps):
    fields = {**trajectory_files.to_json(RECORD), "steps": steps}
    with pytest.raises(ValueError, match=r"^steps is not a number of steps$"):
        trajectory_files.parse(fields)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ('{"epoch": 1', "Expecting ',' delimiter: line 1 column 12 (char 11)"),
        ("null", "'NoneType' object is not iterable"),
        ('{"epoch": 1}', "'train_loss'"),
        ('{"epoch": 1.5}', "epoch is not a whole number"),
        (
            trajectory_files.line(RECORD).replace("[3, 1]", "[3]", 1),
            "validation_counts are not of one number of classes",
        ),
    ],
)
def test_damage_is_named_by_line(tmp_path, damage, reason):
    path = tmp_path / "net.jsonl"
    trajectory_files.append(path, RECORD)
    with path.open("a") as file:
        file.write(damage)
    with pytest.raises(errors.OutputError) as error:
        trajectory_files.read(path)
    assert error.value.cause == f"{path}, line 2 is damaged: {reason}"
    assert error.value.remedy == "Remove that line and all lines after it"
    assert repr(trajectory_files.read_sound(path)) == repr((RECORD,))


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "net.jsonl"
    assert trajectory_files.read_sound(path) == ()
    with pytest.raises(errors.OutputError) as error:
        trajectory_files.read(path)
    assert error.value.cause == f"cannot read {path}: No such file or directory"
    assert error.value.remedy == "Check the path"


def test_load_trajectories(tmp_path):
    folder = tmp_path / trajectory_files.FOLDER
    folder.mkdir()
    with pytest.raises(errors.OutputError) as error:
        trajectory_files.load_trajectories(tmp_path)
    assert error.value.cause == f"no trajectories in {folder}"
    assert error.value.remedy == "Give the output folder of a run"
    for name in ("b", "a"):
        trajectory_files.append(folder / f"{name}.jsonl", RECORD)
    assert {t.head for t in trajectory_files.load_trajectories(tmp_path, "linear")} == {"linear"}
    (tmp_path / "run.json").write_text(json.dumps({"config": {"head": "trainable_probe"}}))
    loaded = trajectory_files.load_trajectories(tmp_path)
    assert [t.model for t in loaded] == ["a", "b"]
    assert {t.head for t in loaded} == {"trainable_probe"}
    assert loaded[0].seconds == 1.5


def test_what_a_folder_keeps_beside_its_ranking_is_not_loaded(tmp_path):
    folder = tmp_path / trajectory_files.FOLDER
    folder.mkdir()
    for name in ("a", "b"):
        for epoch in range(3):
            record = dataclasses.replace(RECORD, epoch=epoch)
            trajectory_files.append(folder / f"{name}.jsonl", record)
    held = {"config": {"head": "probe", "epochs": 1}, "models": {"a": {}}, "set_aside": {"b": {}}}
    (tmp_path / "run.json").write_text(json.dumps(held))
    (loaded,) = trajectory_files.load_trajectories(tmp_path)
    assert (loaded.model, loaded.epochs) == ("a", 1)


def test_a_damaged_run_file_is_refused(tmp_path):
    folder = tmp_path / trajectory_files.FOLDER
    folder.mkdir()
    trajectory_files.append(folder / "a.jsonl", RECORD)
    run = tmp_path / "run.json"
    run.write_text("{")
    with pytest.raises(errors.OutputError) as error:
        trajectory_files.load_trajectories(tmp_path)
    assert error.value.cause.startswith(f"{run} cannot be read: Expecting property name")
    assert error.value.remedy == "Restore it, or remove it and pass `head`"


def test_unwritable_file_is_a_named_error(tmp_path):
    path = tmp_path / "no" / "net.jsonl"
    with pytest.raises(errors.OutputError) as error:
        trajectory_files.append(path, RECORD)
    assert error.value.cause == f"cannot write {path}: No such file or directory"
    assert error.value.remedy == ("Free space, or choose an output folder that you may write to")
