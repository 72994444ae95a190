"""Runs that are interrupted go on where they were, and never mix with other runs."""

from __future__ import annotations

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import records
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.run_folder import RunFolder
from ncap_jax.types import DataConfig, EpochRecord, ModelSpec, Trajectory
from tests.small import small_config, small_digits, small_spec

POOL = [small_spec("small_4", 4), small_spec("small_8", 8)]
CONFIG = small_config(epochs=3)


@pytest.fixture(scope="module")
def digits():
    return small_digits()


@pytest.fixture(scope="module")
def whole(digits):
    """The run that nothing interrupts."""
    return timeless(ncap.rank_models(POOL, digits, CONFIG, show_progress=False))


def timeless(ranking):
    """All of a ranking but its times, as text: exact, and NaN equals NaN."""
    rows = [dataclasses.replace(row, seconds=0.0) for row in ranking.models]
    lines = [
        [dataclasses.replace(r, seconds=0.0, measure_seconds=0.0) for r in t.records]
        for t in ranking.trajectories
    ]
    return repr((rows, lines))


class Stop(BaseException):
    """Ends a run as a kill would, without any of its own clean-up."""


def interrupt_after(monkeypatch, calls, method):
    """Make the given call of `method` (counted from 1) end the run."""
    from ncap_jax import run_folder

    owner = run_folder.RunFolder if hasattr(run_folder.RunFolder, method) else Checkpoints
    original, count = getattr(owner, method), [0]

    def counted(self, *arguments):
        original(self, *arguments)
        count[0] += 1
        if count[0] == calls:
            raise Stop

    monkeypatch.setattr(owner, method, counted)


@pytest.mark.parametrize(
    ("method", "calls"),
    [("append", 1), ("append", 2), ("save", 1), ("save", 3), ("append", 4), ("finish", 1)],
)
def test_resumed_equals_uninterrupted(digits, whole, tmp_path, monkeypatch, method, calls):
    with monkeypatch.context() as patch:
        interrupt_after(patch, calls, method)
        with pytest.raises(Stop):
            ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    resumed = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    assert timeless(resumed) == whole
    for spec in POOL:
        lines = (tmp_path / records.FOLDER / f"{spec.name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]


def test_finished_models_are_never_redone(digits, whole, tmp_path, monkeypatch):
    ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    monkeypatch.setattr("ncap_jax.candidates.finetune_one", None)
    again = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    assert timeless(again) == whole


@pytest.mark.parametrize("damage", ["torn line", "checkpoint", "no checkpoint", "ledger"])
def test_damage_costs_time_only(digits, whole, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, "save")
        with pytest.raises(Stop):
            ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    trajectory = tmp_path / records.FOLDER / "small_4.jsonl"
    checkpoint = tmp_path / "checkpoints" / "small_4"
    if damage == "torn line":
        trajectory.write_text(trajectory.read_text()[:-40])
    elif damage == "checkpoint":
        for file in checkpoint.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    elif damage == "no checkpoint":
        Checkpoints(checkpoint).remove()
    else:
        (tmp_path / "ledger.jsonl").write_text('{"model": "small_4", "sta')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        resumed = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    again = [w for w in caught if "small_4 starts again" in str(w.message)]
    assert bool(again) == (damage == "checkpoint")
    assert timeless(resumed) == whole


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"config": small_config(epochs=4)}, r"config\.epochs was 3, is 4"),
        ({"models": POOL[:1]}, r"models\.small_8"),
        ({"data_config": DataConfig(max_train=50)}, r"data\."),
    ],
)
def test_another_run_is_refused_and_the_field_is_named(digits, tmp_path, changes, match):
    arguments = {"models": POOL, "config": CONFIG, "data_config": DataConfig()}
    ncap.rank_models(**arguments, dataset=digits, output_dir=tmp_path, show_progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(errors.OutputError, match=match):
        ncap.rank_models(**{**arguments, **changes}, dataset=digits, output_dir=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_failed_models_are_tried_again_and_diverged_ones_are_not(digits, tmp_path, monkeypatch):
    from ncap_jax.finetune import loop

    good = loop.prepare
    with monkeypatch.context() as patch:
        patch.setattr(loop, "prepare", lambda *a: (_ for _ in ()).throw(RuntimeError("broken")))
        first = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    assert {row.status for row in first.models} == {"failed"}
    assert loop.prepare is good
    second = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    assert {row.status for row in second.models} == {"ok"}


def test_an_unwritable_folder_is_refused_first(digits, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(errors.OutputError, match="cannot write to"):
        ncap.rank_models(POOL, digits, CONFIG, tmp_path / "file" / "run")


def test_a_damaged_run_json_is_a_named_error(digits, tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 1')
    with pytest.raises(errors.OutputError, match=r"run\.json cannot be read"):
        ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "<script>"])
def test_names_that_are_no_file_names_are_refused(digits, name):
    spec = ModelSpec(name, POOL[0].build, 8, 4)
    with pytest.raises(errors.ModelError, match="no name for a model"):
        ncap.rank_models([spec], digits, CONFIG, show_progress=False)


def test_checkpoints_keep_random_keys_and_only_the_newest(tmp_path):
    tree = {"key": jax.random.key(7), "w": jnp.arange(3.0), "n": jnp.array(2, jnp.uint32)}
    store = Checkpoints(tmp_path / "c")
    assert store.latest() is None
    store.save(0, tree)
    store.save(1, {**tree, "w": tree["w"] + 1})
    assert store.latest() == 1
    found = store.restore(1, tree)
    np.testing.assert_array_equal(found["w"], [1.0, 2.0, 3.0])
    assert jax.random.uniform(found["key"]) == jax.random.uniform(tree["key"])
    store.remove()
    assert store.latest() is None


def test_a_checkpoint_half_removed_is_removed(tmp_path):
    """A kill between the ledger's line and the end of the removal leaves no litter for good."""
    facts = {"config": {}, "models": {"a": {}}, "data": {}}
    record = EpochRecord(0, 1.0, 0.5, 1.0, 0.5)
    left = tmp_path / "checkpoints" / "a" / "2" / "default" / "d"
    with RunFolder(tmp_path, facts) as folder:
        folder.append("a", record)
        folder.finish(Trajectory("a", "probe", (record,)))
    left.mkdir(parents=True)
    with RunFolder(tmp_path, facts) as folder:
        assert list(folder.finished("probe")) == ["a"]
    assert not (tmp_path / "checkpoints" / "a").exists()
