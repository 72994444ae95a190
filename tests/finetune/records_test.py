"""Trajectory files: exact round trip, strict JSON, damage named by line."""

from __future__ import annotations

import json
import math

import pytest

from ncap_jax import errors
from ncap_jax.finetune import records
from ncap_jax.types import EpochRecord

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
)


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "net.jsonl"
    records.append(path, RECORD)
    records.append(path, RECORD)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert "NaN" not in lines[0]
    one, two = records.read(path)
    assert repr(one) == repr(two) == repr(RECORD)


@pytest.mark.parametrize("damage", ['{"epoch": 1', "[]", '{"epoch": 1}', "null"])
def test_damage_is_named_by_line(tmp_path, damage):
    path = tmp_path / "net.jsonl"
    records.append(path, RECORD)
    with path.open("a") as file:
        file.write(damage)
    with pytest.raises(errors.OutputError, match="line 2 is damaged"):
        records.read(path)


def test_load_trajectories(tmp_path):
    folder = tmp_path / records.FOLDER
    folder.mkdir()
    with pytest.raises(errors.OutputError, match="no trajectories"):
        records.load_trajectories(tmp_path)
    for name in ("b", "a"):
        records.append(folder / f"{name}.jsonl", RECORD)
    (tmp_path / "run.json").write_text(json.dumps({"config": {"head": "trainable_probe"}}))
    loaded = records.load_trajectories(tmp_path)
    assert [t.model for t in loaded] == ["a", "b"]
    assert {t.head for t in loaded} == {"trainable_probe"}
    assert loaded[0].seconds == 1.5


def test_unwritable_file_is_a_named_error(tmp_path):
    with pytest.raises(errors.OutputError, match="cannot write"):
        records.append(tmp_path / "no" / "net.jsonl", RECORD)
