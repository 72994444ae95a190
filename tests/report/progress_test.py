"""Live progress: plain lines in files, a bar in terminals."""

from __future__ import annotations

import io
import math
import sys
import types

import pytest

from ncap_jax.report import Progress
from ncap_jax.report.progress import Watchers
from ncap_jax.types import EpochRecord, Trajectory
from tests.support.pool import make_pool


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(file, models=2, epochs=3):
    pool = make_pool(models, epochs)
    with Progress([t.model for t in pool], epochs, file=file) as progress:
        for trajectory in pool:
            for record in trajectory.records:
                progress.epoch(trajectory.model, record)
            progress.finished(trajectory)
        left = progress.seconds_left()
    return pool, left


def test_one_plain_line_an_epoch():
    file = io.StringIO()
    pool, left = drive(file)
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 * (4 + 1)
    assert "\x1b" not in file.getvalue()
    accuracy = pool[0].records[1].validation_accuracy
    assert lines[1].startswith(f"model_0: epoch 1/3, validation accuracy {100 * accuracy:.1f} %")
    assert lines[4].startswith("model_0: ok after 3 epochs")
    assert lines[-1].endswith("[2/2 models]")
    assert left == 0.0


def test_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    file = Terminal()
    drive(file)
    text = file.getvalue()
    assert "\x1b[" in text
    assert "6/6 epochs" in text
    assert "best model_0" in text


def test_time_left_is_unknown_before_the_first_epoch():
    assert math.isnan(Progress(["a"], 5, file=io.StringIO()).seconds_left())


def test_an_early_end_counts_as_done():
    pool = make_pool(1, 2)
    progress = Progress(["model_0"], 5, file=io.StringIO())
    with progress:
        progress.finished(pool[0])
    assert progress.seconds_left() == 0.0


def test_an_error_inside_ends_the_bar_and_is_not_swallowed():
    try:
        with Progress(["a"], 5, file=Terminal()):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return
    raise AssertionError("swallowed")


@pytest.mark.parametrize("widgets", [False, True])
def test_in_a_notebook(monkeypatch, widgets):
    """A live bar where ipywidgets can show one, plain lines otherwise; a file stays a file."""
    shown = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: shown.append(text))
    monkeypatch.setitem(sys.modules, "ipywidgets", types.ModuleType("w") if widgets else None)
    assert Progress(["a"], 3)._live == widgets
    file = io.StringIO()
    drive(file, models=1)
    assert len(file.getvalue().splitlines()) == 5
    assert shown == []
    if not widgets:
        drive(None, models=1)
        assert [text.count("\n") for text in shown] == [1] * 5


def test_watchers_are_all_told():
    class Recorder:
        def __init__(self) -> None:
            self.told: list[object] = []

        def epoch(self, model: str, record: EpochRecord) -> None:
            self.told.append((model, record))

        def finished(self, trajectory: Trajectory) -> None:
            self.told.append(trajectory)

    one, two = Recorder(), Recorder()
    (trajectory,) = make_pool(1, epochs=1)
    watchers = Watchers([one, two])
    watchers.epoch("model_0", trajectory.records[0])
    watchers.finished(trajectory)
    assert one.told == two.told == [("model_0", trajectory.records[0]), trajectory]
