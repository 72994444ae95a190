"""TensorBoard scalars, read back from the event files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor.validation_score import score
from ncap_jax.report.tensorboard import TensorBoard
from ncap_jax.types import Trajectory
from tests.support.event_files import scalars
from tests.support.pool import counted, make_pool


def test_every_epoch_of_every_model(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    plain, other = make_pool(models=2, epochs=3)
    pool = [plain, counted(other, (900, 100), rare=0.5)]
    with TensorBoard(tmp_path) as board:
        for trajectory in pool:
            for record in trajectory.records:
                board.epoch(trajectory.model, record)
            if trajectory is pool[0]:
                board.finished(trajectory)
    for trajectory in pool:
        found = scalars(tmp_path / trajectory.model)
        for record in trajectory.records:
            # Scalars are stored in float32.
            np.testing.assert_allclose(
                found["validation_accuracy", record.epoch], record.validation_accuracy, rtol=1e-6
            )
            np.testing.assert_allclose(
                found["beta_eff/absolute", record.epoch], record.beta_eff["absolute"][0], rtol=1e-6
            )
            tag = "validation_macro_f1", record.epoch
            assert (tag in found) == (trajectory is pool[1])
            if trajectory is pool[1]:
                np.testing.assert_allclose(found[tag], score(record, "macro_f1"), rtol=1e-6)
        assert ("running_loss", 0) not in found
        assert ("running_loss", 1) in found


def test_epochs_of_an_earlier_run_are_written_once(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    whole, resumed = make_pool(models=2, epochs=3)
    with TensorBoard(tmp_path) as board:
        board.finished(whole)  # trained before, without TensorBoard
        board.epoch(resumed.model, resumed.records[3])
        board.finished(resumed)
    for trajectory in (whole, resumed):
        steps = [s for tag, s in scalars(tmp_path / trajectory.model) if tag == "validation_loss"]
        assert sorted(steps) == [0, 1, 2, 3]
    before = {path: path.stat().st_size for path in tmp_path.rglob("events*")}
    with TensorBoard(tmp_path) as board:
        board.finished(whole)
    assert all(path.stat().st_size == size for path, size in before.items())


def test_a_model_that_never_ran_leaves_nothing(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    with TensorBoard(tmp_path) as board:
        board.finished(Trajectory("a", "probe", (), "failed", "broken"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    (tmp_path / "file").touch()
    (trajectory,) = make_pool(models=1, epochs=1)
    folder = tmp_path / "file"
    with TensorBoard(folder) as board, pytest.raises(errors.OutputError) as error:
        board.epoch("a", trajectory.records[0])
    assert error.value.cause == f"cannot write to {folder}: Not a directory"
    assert error.value.remedy == "Free space, or choose a folder that you may write to"


def test_missing_library_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(errors.ConfigError) as error:
        TensorBoard(tmp_path)
    assert error.value.cause == "tensorboardX, which writes TensorBoard scalars, is not installed"
    assert error.value.remedy == "Run: pip install 'ncap_jax[tensorboard]'"
