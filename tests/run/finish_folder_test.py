"""The folder of a finish: what it refuses, and when a model starts again in it."""

from __future__ import annotations

import json
import pathlib

import jax.numpy as jnp
import pytest

from ncap_jax import errors
from ncap_jax.options import FinishConfig
from ncap_jax.run.finish_folder import FinishFolder

CONFIG = FinishConfig(patience=4)
STATE = {"w": jnp.zeros(2)}


@pytest.fixture
def trajectory(tmp_path) -> pathlib.Path:
    """Of a model in the ranking."""
    file = tmp_path / "a.jsonl"
    file.write_text("{}\n")
    return file


def test_the_same_finish_goes_on_where_it_was_begun(tmp_path, trajectory):
    begun = FinishFolder(tmp_path, CONFIG)
    begun.begin("a", trajectory)
    again = FinishFolder(tmp_path, FinishConfig(patience=4, top=3))
    assert again.started == begun.started
    again.best("a").save(3, STATE)
    again.begin("a", trajectory)
    assert again.best("a").latest() == 3


def test_a_model_starts_again_once_its_ranking_has_gone_on(tmp_path, trajectory):
    folder = FinishFolder(tmp_path, CONFIG)
    folder.begin("a", trajectory)
    folder.best("a").save(3, STATE)
    folder.files.checkpoints("a").save(3, STATE)
    trajectory.write_text("{}\n{}\n")
    folder.begin("a", trajectory)
    assert folder.best("a").latest() is None
    assert folder.files.checkpoints("a").latest() is None


def test_another_way_is_refused_by_name(tmp_path, trajectory):
    FinishFolder(tmp_path, CONFIG).begin("a", trajectory)
    with pytest.raises(errors.OutputError) as error:
        FinishFolder(tmp_path, FinishConfig(patience=5, max_epochs=9))
    place = tmp_path / "finish"
    assert error.value.cause == (
        f"{place} was begun in another way; different: config.max_epochs was 25, is 9; "
        "config.patience was 4, is 5"
    )
    assert error.value.remedy == (
        f"Repeat it with the same options, or remove {place} to finish in this way"
    )


def test_another_metric_is_another_way_and_an_older_folder_chose_by_accuracy(tmp_path, trajectory):
    FinishFolder(tmp_path, CONFIG).begin("a", trajectory)
    file = tmp_path / "finish" / "finish.json"
    content = json.loads(file.read_text())
    assert content["config"].pop("metric") == "accuracy"
    file.write_text(json.dumps(content))
    FinishFolder(tmp_path, CONFIG)
    with pytest.raises(errors.OutputError) as error:
        FinishFolder(tmp_path, CONFIG, "macro_f1")
    assert error.value.cause.endswith('; different: config.metric was "accuracy", is "macro_f1"')


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", json.dumps({"schema": 9}).encode(), b"[" * 100_000]
)
def test_a_damaged_file_is_a_named_error(tmp_path, trajectory, content):
    FinishFolder(tmp_path, CONFIG).begin("a", trajectory)
    file = tmp_path / "finish" / "finish.json"
    file.write_bytes(content)
    with pytest.raises(errors.OutputError) as error:
        FinishFolder(tmp_path, CONFIG)
    assert error.value.cause.startswith(f"{file} cannot be read: ")
    assert error.value.remedy == f"Remove {file.parent}: the finish starts again"


def test_what_a_kill_left_half_written_is_removed(tmp_path, trajectory):
    FinishFolder(tmp_path, CONFIG).begin("a", trajectory)
    (tmp_path / "finish" / ".finish.json.1.tmp").touch()
    FinishFolder(tmp_path, CONFIG)
    assert not list((tmp_path / "finish").glob(".*"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "finish").touch()
    with pytest.raises(errors.OutputError) as error:
        FinishFolder(tmp_path, CONFIG)
    assert error.value.cause.startswith(f"cannot write to {tmp_path / 'finish' / 'trajectories'}: ")
    assert error.value.remedy == "Free space, or make it a folder that you may write to"
