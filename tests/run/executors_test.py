"""Executors on tasks that need no models: order, streaming, who gets which task, giving up."""

from __future__ import annotations

import os

import pytest

from ncap_jax import errors
from ncap_jax.run import executors
from ncap_jax.run.executors import Event, Local, Lost, Pool
from tests.support.toy_work import broken, make, run

# What is tried for ever must not take the suite along.
pytestmark = pytest.mark.timeout(120)


def test_local_runs_here_one_after_the_other():
    with Local(make) as executor:
        pids, ends = run(executor, {"a": ("x", None), "b": ("x", None)})
    assert ends == {"a": 1, "b": 2}
    assert pids == {"a": [os.getpid()], "b": [os.getpid()]}


def test_local_makes_its_work_anew_in_every_context():
    executor = Local(make)
    for _ in range(2):
        with executor:
            assert run(executor, {"a": ("x", None)})[1] == {"a": 1}


def test_errors_of_local_work_are_raised_as_they_are():
    with Local(make) as executor, pytest.raises(ValueError, match=r"^not an error of ours$"):
        run(executor, {"a": ("raise", None)})
    with Local(broken) as executor, pytest.raises(errors.DataError) as error:
        run(executor, {"a": ("x", None)})
    assert (error.value.cause, error.value.remedy) == ("no data", "Give some")


class Fake(Pool):
    """Workers that answer at once, in the order of their numbers; some names kill them."""

    def __init__(self, workers: int, deadly: tuple[str, ...] = ()):
        super().__init__(workers)
        self.sent: list[tuple[int, str]] = []
        self.started: list[int] = []
        self.stopped: list[int] = []
        self._deadly = deadly
        self._open: list[tuple[int, str]] = []

    def _start(self, slot):
        self.started.append(slot)

    def _stop(self, slot):
        self.stopped.append(slot)

    def _send(self, slot, task):
        self.sent.append((slot, task))
        self._open.append((slot, task))

    def _next_event(self, busy):
        slot, task = self._open.pop(0)
        dead = task in self._deadly
        return Event(slot, "lost" if dead else "result", "struck down" if dead else None)


def ends_of(executor: Fake, names: str) -> dict:
    ends: dict = {}
    executor.run(list(names), lambda name: name, lambda name, item: None, ends.__setitem__)
    return ends


def test_tasks_go_back_to_their_worker_and_idle_ones_help():
    executor = Fake(2)
    for _ in range(2):
        ends_of(executor, "abcd")
        assert executor.sent == [(0, "a"), (1, "b"), (0, "c"), (1, "d")]
        executor.sent.clear()
    ends_of(executor, "ac")  # both were with worker 0
    assert executor.sent == [(0, "a"), (1, "c")]
    executor.sent.clear()
    ends_of(executor, "d")
    assert executor.sent == [(1, "d")]
    assert executor.started == [0, 1]


def test_no_more_workers_start_than_there_are_tasks_and_all_are_stopped():
    with Fake(3) as executor:
        ends_of(executor, "ab")
    assert executor.started == executor.stopped == [0, 1]


def test_a_task_that_always_kills_its_worker_is_given_up():
    executor = Fake(2, deadly=("b",))
    ends = ends_of(executor, "abc")
    assert ends == {"a": None, "b": Lost("its worker ended 3 times, last: struck down"), "c": None}
    assert [task for _, task in executor.sent].count("b") == executors.ATTEMPTS


def test_a_task_is_asked_for_again_when_it_starts_again():
    """Its share of time is another by then."""
    asked: list[str] = []

    def make_task(name):
        asked.append(name)
        return name

    Fake(1, deadly=("a",)).run(["a"], make_task, lambda *item: None, lambda *end: None)
    assert asked == ["a"] * executors.ATTEMPTS
