"""Live progress: plain lines in files, a bar in terminals."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
import types

import pytest

from ncap_jax.options import RankConfig
from ncap_jax.predictor.validation_score import score
from ncap_jax.report import Progress, text
from ncap_jax.report import progress as progress_module
from ncap_jax.report.progress import Watchers
from ncap_jax.selection.budget import TimeBudget
from ncap_jax.types import EpochRecord, Trajectory
from tests.support.pool import counted, make_pool

PLAN = 2  # lines before the first epoch


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
    assert len(lines) == PLAN + 2 * (4 + 1)
    lines = lines[PLAN:]
    assert "\x1b" not in file.getvalue()
    accuracy = pool[0].records[1].validation_accuracy
    assert lines[1].startswith(f"model_0: epoch 1/3, validation accuracy {100 * accuracy:.1f} %")
    assert lines[4].startswith("model_0: ok after 3 epochs")
    assert lines[-1].endswith("[2/2 models]")
    assert left == 0.0


def test_an_epoch_and_the_best_are_told_in_the_metric():
    file = io.StringIO()
    frequent, both = make_pool(models=2, epochs=1)
    pool = [counted(frequent, (900, 100), rare=0.0), counted(both, (900, 100))]
    with Progress(["model_0", "model_1"], 1, file, metric="balanced_accuracy") as progress:
        for trajectory in pool:
            progress.epoch(trajectory.model, trajectory.records[1])
        assert "best model_1 " in progress._headline()
    share = text.percent(score(pool[0].records[1], "balanced_accuracy"))
    line = file.getvalue().splitlines()[PLAN]
    assert line.startswith(f"model_0: epoch 1/1, validation balanced accuracy {share}, loss ")


def test_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    file = Terminal()
    drive(file)
    shown = file.getvalue()
    assert "\x1b[" in shown
    assert "6/6 epochs" in shown
    assert "best model_0" in shown
    assert shown.startswith("Plan: 2 models, 3 epochs each.")
    assert "left not known yet" in shown


def test_time_left_is_unknown_before_the_first_epoch():
    assert math.isnan(Progress(["a"], 5, file=io.StringIO()).seconds_left())


SLOW, QUICK = 20.0, 3.0  # seconds to compile a model, and of an epoch


def simulated(monkeypatch, models: int, epochs: int) -> list[str]:
    """What is written while every model compiles before epoch 0, on a clock of its own."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    pool = make_pool(models, epochs)
    with Progress([t.model for t in pool], epochs, file, programs="Programs: none.") as progress:
        for trajectory in pool:
            for record in trajectory.records:
                seconds = QUICK if record.epoch else SLOW
                now[0] += seconds
                progress.epoch(trajectory.model, dataclasses.replace(record, seconds=seconds))
            progress.finished(trajectory)
    return file.getvalue().splitlines()


def test_the_plan_stands_first_and_nothing_is_invented(monkeypatch):
    lines = simulated(monkeypatch, models=3, epochs=2)
    assert lines[:3] == [
        "Plan: 3 models, 2 epochs each. Every model is compiled first, which on small data takes "
        "longer than its epochs.",
        "Programs: none.",
        "Time left, compilation included: not known yet, until an epoch is trained.",
    ]
    assert lines[3].endswith("time left not known yet")
    (one, *_) = simulated(monkeypatch, models=1, epochs=1)
    assert one.startswith("Plan: 1 model, 1 epoch. ")


def test_a_time_budget_bounds_the_plan(monkeypatch):
    """The first model ends after 26 of 57 seconds: the next ones are expected to take 14 each."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    clock, file, pool = (
        TimeBudget(RankConfig(time_budget=60.0), 0.0),
        io.StringIO(),
        make_pool(9, 2),
    )
    with Progress([t.model for t in pool], 2, file, clock=clock) as progress:
        clock.begin(pool[0].model, 9)
        for record in pool[0].records:
            now[0] += 2.0 if record.epoch else 22.0
            clock.epoch(pool[0].model, record.epoch)
            progress.epoch(pool[0].model, record)
        clock.end(pool[0].model)
        progress.finished(pool[0])
        progress.finished(pool[1])
        assert progress.seconds_left() == 31.0
    lines = file.getvalue().splitlines()
    assert lines[1] == "Time budget: models are taken one after another while it lasts."
    (told,) = [line for line in lines if line.startswith("Time budget: of")]
    assert told == "Time budget: of the 8 models left about 2 will be trained, in 31.0 s."


def test_the_time_left_includes_compiling_the_models_to_come(monkeypatch):
    lines = [line for line in simulated(monkeypatch, 3, 2) if "time left" in line]
    start, truth = SLOW + 2 * QUICK, []
    for model in (2, 1, 0):
        truth += [model * start + left * QUICK for left in (2, 1, 0)]
    said = [line.rpartition("time left ")[2] for line in lines]
    assert said[1:3] == [text.duration(seconds) for seconds in truth[1:3]]
    # Right after a model's start, only half of it is taken as done.
    assert [said[i] for i in (4, 5, 7, 8)] == [text.duration(truth[i]) for i in (4, 5, 7, 8)]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "error",
    [OSError(28, "full"), UnicodeEncodeError("ascii", "x", 0, 1, "no"), ValueError("closed")],
)
def test_a_view_that_cannot_be_written_is_silent(monkeypatch, terminal, error):
    """Nothing is raised, and after the first failure nothing is tried."""
    monkeypatch.setenv("TERM", "xterm-256color")

    class Broken(io.StringIO):
        tried = 0

        def isatty(self) -> bool:
            return terminal

        def write(self, words: str) -> int:
            self.tried += 1
            raise error

    file = Broken()
    _, left = drive(file)
    assert left == 0.0
    assert file.tried == 1


def test_a_closed_standard_error_is_no_obstacle(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    drive(None)
    assert capsys.readouterr().out == ""


def test_control_characters_are_written_out():
    file = Terminal()
    for stream in (io.StringIO(), file):
        with Progress(["a\x00\u202eb"], 1, file=stream) as progress:
            (trajectory,) = make_pool(1, epochs=1)
            for record in trajectory.records:
                progress.epoch("a\x00\u202eb", record)
            progress.finished(
                dataclasses.replace(trajectory, model="a\x00\u202eb", message="x\x07\ny")
            )
        assert not {"\x00", "\u202e", "\x07"} & set(stream.getvalue())
        assert r"a\x00\u202eb" in stream.getvalue()


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
    assert len(file.getvalue().splitlines()) == PLAN + 5
    assert shown == []
    if not widgets:
        drive(None, models=1)
        assert [text.count("\n") for text in shown] == [1] * (PLAN + 5)


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


def test_lines_before_the_training_are_visible_and_can_be_switched_off():
    file = io.StringIO()
    progress_module.line_printer(file)("a\x1bb")
    progress_module.line_printer(file, shown=False)("never")
    assert file.getvalue() == "a\\x1bb\n"
