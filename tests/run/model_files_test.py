"""Where a model goes on: its trajectory and its states, sound or damaged."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from ncap_jax.finetune import trajectory_files
from ncap_jax.run import ledger
from ncap_jax.run.model_files import ModelFiles, Position
from ncap_jax.types import EpochRecord

RECORDS = tuple(EpochRecord(epoch, 1.0, 0.5, 1.0, 0.5) for epoch in range(2))


@pytest.fixture
def files(tmp_path):
    """Of a model that is under way, with a state after its last epoch."""
    (tmp_path / "trajectories").mkdir()
    found = ModelFiles(tmp_path)
    for record in RECORDS:
        found.append("a", record)
    found.checkpoints("a").save(1, {"w": jnp.zeros(2)})
    return found


@pytest.mark.parametrize(
    ("damage", "kept"),
    [("no checkpoint", 2), ("no line", 1), ("torn line", 1), ("another line", 0)],
)
def test_without_a_usable_checkpoint_a_model_is_trained_again(files, damage, kept):
    """What is recorded is not measured again."""
    trajectory = files.trajectory("a")
    lines = trajectory.read_text().splitlines(keepends=True)
    if damage == "no checkpoint":
        files.checkpoints("a").remove()
    elif damage == "no line":
        trajectory.write_text(lines[0])
    elif damage == "torn line":
        trajectory.write_text(lines[0] + lines[1][:-20])
    else:
        trajectory.write_text(lines[1] + lines[1])
    assert repr(files.position("a")) == repr(Position(RECORDS[:kept], None))
    assert repr(trajectory_files.read(trajectory)) == repr(RECORDS[:kept])
    assert files.checkpoints("a").latest() is None


def test_a_sound_state_is_resumed_from(files):
    assert files.position("a") == Position(RECORDS, 1)
    assert files.position("b") == Position()


def test_what_follows_the_state_is_cut_off_where_it_is_measured_again(files):
    files.append("a", EpochRecord(2, 1.0, 0.5, 1.0, 0.5))
    assert files.resume_point("a") == RECORDS
    assert trajectory_files.read(files.trajectory("a")) == RECORDS
    files.checkpoints("a").remove()
    assert files.resume_point("a") == ()
    assert not files.trajectory("a").exists()


def test_a_line_that_a_kill_has_torn_is_cut_off(files):
    trajectory = files.trajectory("a")
    trajectory.write_text(trajectory.read_text() + '{"epoch": 2, "train')
    assert files.position("a") == Position(RECORDS, 1)
    assert trajectory_files.read(trajectory) == RECORDS


def test_starting_again_forgets_a_model_and_its_end(files):
    ledger.append(files.path, ledger.Entry("a", "ok", "", 1.0, records=2))
    files.start_again("a")
    assert files.position("a") == Position()
    assert not files.trajectory("a").exists()
    assert ledger.whole(ledger.read(files.path)) == {"a": 0}
    files.start_again("a")  # nothing is left to forget
    assert len(ledger.read(files.path)) == 2
