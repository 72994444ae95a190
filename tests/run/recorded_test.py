"""What a ranking takes of the epochs that a folder keeps."""

from __future__ import annotations

import math

import pytest

from ncap_jax.options import RankConfig
from ncap_jax.run import recorded
from ncap_jax.run.recorded import Recorded
from ncap_jax.types import EpochRecord, Trajectory

CONFIG = RankConfig(epochs=2)


def record(epoch, *, beta=True, loss=1.0, features=""):
    values = {"absolute": (0.5,)} if beta else {}
    statuses = {"absolute": ("ok",)} if beta else {}
    return EpochRecord(
        *(epoch, loss, 0.5, loss, 0.5),
        beta_eff=values,
        beta_eff_status=statuses,
        seconds=1.0,
        measure_seconds=0.25 if beta else 0.0,
        features=features,
    )


RECORDS = tuple(record(epoch, beta=epoch in (0, 3)) for epoch in range(4))
MODEL = Recorded("a", RECORDS, state=3, seconds=9.0, note="halved")


def test_a_model_is_known_as_far_as_it_is_recorded():
    assert [MODEL.reaches(epoch) for epoch in (0, 3, 4)] == [True, True, False]
    diverged = Recorded("a", (record(0), record(1, loss=math.nan)))
    assert diverged.reaches(1000)


@pytest.mark.parametrize(
    ("epochs", "until", "status", "seconds"),
    [(3, 3, "ok", 9.0), (3, 2, "stopped", 3.0), (2, 2, "ok", 3.0), (9, 9, "stopped", 9.0)],
)
def test_a_trajectory_is_that_of_a_run_that_ended_there(epochs, until, status, seconds):
    found = MODEL.until(until, RankConfig(epochs=epochs))
    assert found == Trajectory(
        "a", "linear", RECORDS[: until + 1], status=status, message="halved", seconds=seconds
    )


def test_how_it_ended_is_told_by_its_records():
    """A divergence counts where the epoch does, and what the features say is said of the last."""
    records = (record(0), record(1, features="constant"), record(2, loss=math.nan))
    known = Recorded("a", records)
    assert known.until(2, CONFIG).status == "diverged"
    assert known.until(2, CONFIG).message == (
        "the loss is not finite after epoch 2; a smaller learning_rate may help"
    )
    shorter = known.until(1, RankConfig(epochs=1))
    assert shorter.status == "ok"
    assert shorter.message.startswith("its features are the same for all images after epoch 1: ")


def test_a_beta_eff_that_a_fresh_run_has_not_is_left_out():
    trajectory = Trajectory("a", "linear", RECORDS)
    assert recorded.as_measured(trajectory, None) is trajectory
    assert recorded.as_measured(trajectory, {0, 3}) is trajectory
    found = recorded.as_measured(trajectory, {0, 5}).records
    assert found[:3] == RECORDS[:3]
    assert found[3] == record(3, beta=False)
