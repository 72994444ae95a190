"""The time of all calls in a folder: added up, kept after every epoch, never made up."""

from __future__ import annotations

import pathlib

import pytest

from ncap_jax import errors
from ncap_jax.run import stopwatch
from ncap_jax.run.stopwatch import Stopwatch
from ncap_jax.types import EpochRecord, Trajectory

RECORD = EpochRecord(1, 1.0, 0.5, 1.0, 0.5)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's time, which the test sets."""
    time = [100.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: time[0])
    return time


def test_calls_are_added_up(tmp_path: pathlib.Path, now: list[float]):
    with Stopwatch(tmp_path, 90.0):
        now[0] = 103.0
    assert stopwatch.read(tmp_path) == 13.0
    with Stopwatch(tmp_path, 103.0) as second:
        now[0] = 105.5
        assert second.seconds == 15.5
    assert stopwatch.read(tmp_path) == 15.5


def test_a_kill_loses_what_follows_the_last_epoch(tmp_path: pathlib.Path, now: list[float]):
    killed = Stopwatch(tmp_path, 100.0)
    now[0] = 104.0
    killed.epoch("a", RECORD)
    assert stopwatch.read(tmp_path) == 4.0
    now[0] = 105.0
    killed.finished(Trajectory("a", "linear", ()))
    now[0] = 109.0
    assert stopwatch.read(tmp_path) == 5.0


def test_a_call_that_is_refused_writes_nothing(tmp_path: pathlib.Path, now: list[float]):
    with pytest.raises(errors.OutputError), Stopwatch(tmp_path, 100.0):
        raise errors.OutputError("refused", "do not")
    assert list(tmp_path.iterdir()) == []
    begun = Stopwatch(tmp_path, 100.0)
    begun.epoch("a", RECORD)
    now[0] = 107.0
    with pytest.raises(KeyboardInterrupt), begun:
        raise KeyboardInterrupt
    assert stopwatch.read(tmp_path) == 7.0


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", '{"seconds": -1}', '{"seconds": NaN}', '{"seconds": []}', "[" * 9999],
)
def test_of_a_run_that_was_not_timed_the_time_is_not_known(tmp_path: pathlib.Path, content):
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "trajectories" / "a.jsonl").touch()
    if content is not None:
        (tmp_path / stopwatch.FILE).write_text(content)
    with Stopwatch(tmp_path, 0.0) as untimed:
        untimed.epoch("a", RECORD)
        assert untimed.seconds is None
    assert stopwatch.read(tmp_path) is None


def test_time_that_cannot_be_written_ends_no_run(tmp_path: pathlib.Path, now: list[float]):
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file"):
        with Stopwatch(folder, 98.0) as lost:
            lost.epoch("a", RECORD)
        assert lost.seconds == 2.0
