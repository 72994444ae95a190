"""Models that are prepared in threads: the same numbers, nothing compiled twice, failures alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from ncap_jax.finetune import loop
from ncap_jax.measure import training
from ncap_jax.run import ahead
from ncap_jax.run.ahead import Ahead
from tests.support.compilations import compilations
from tests.support.small import small_config, small_feed, small_spec, timeless


def start(name: str):
    return training.start(small_spec(name), small_feed(), small_config(head="probe", epochs=2))


def test_a_model_that_was_prepared_compiles_nothing_and_gives_the_same_numbers():
    expected = loop.finetune(start("small"))
    models = Ahead(start, most=1)
    models.expect(["small"], 2)
    prepared = models.take("small")
    assert prepared is not None
    with compilations() as programs:
        found = loop.finetune(prepared)
    assert not {"jit(train_step)", "jit(features)", "jit(head_sums)", "jit(_probes)"} & {*programs}
    assert timeless(found.records) == timeless(expected.records)


def test_waiting_ends_with_the_last_thread_that_prepares_a_model():
    go, ended = threading.Event(), []

    def prepare(name: str):
        go.wait(10)
        ended.append(name)

    models = Ahead(prepare, most=2)
    models.expect(["one", "two"], 2)
    threading.Timer(0.05, go.set).start()
    ahead.wait()
    assert sorted(ended) == ["one", "two"]
    ahead.wait()  # for nobody


@pytest.fixture
def slow():
    """A maker whose models are under way until `go` is set."""
    go, asked = threading.Event(), []

    def wait(name: str):
        asked.append(name)
        go.wait(10)
        raise OSError(f"{name} has no weights")

    yield wait, asked, go
    go.set()


def test_at_most_as_many_as_were_allowed_are_under_way(slow):
    wait, asked, go = slow
    models = Ahead(wait, most=2)
    models.expect(["a", "b", "c"], 2)
    models.expect(["a", "b", "c"], 2)
    assert sorted(asked) == ["a", "b"]
    go.set()
    models.take("a")
    models.expect(["b", "c"], 2)
    assert sorted(asked) == ["a", "b", "c"]


def test_who_was_not_expected_or_failed_is_made_by_the_worker(slow):
    wait, asked, go = slow
    models = Ahead(wait, most=1)
    assert models.take("a") is None
    models.expect(["a"], 2)
    go.set()
    assert models.take("a") is None
    assert asked == ["a"]


def test_waiting_ends_with_the_time_of_the_model(slow):
    class TooLate(Exception):
        pass

    def deadline():
        raise TooLate

    wait, *_ = slow
    models = Ahead(wait, most=1)
    models.expect(["a"], 2)
    with pytest.raises(TooLate):
        models.take("a", deadline)


def test_nobody_is_expected_where_there_is_no_thread(slow):
    wait, asked, _ = slow
    Ahead(wait, most=0).expect(["a"], 2)
    assert asked == []


def test_forgotten_models_are_not_handed_out(slow):
    wait, _, go = slow
    models = Ahead(wait, most=1)
    models.expect(["a"], 2)
    models.clear()
    go.set()
    assert models.take("a") is None


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (3, 2), (64, ahead.MOST)])
def test_a_thread_for_each_further_core(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert ahead.threads() == expected


SCRIPT = """
import time
from ncap_jax.run import ahead
models = ahead.Ahead(lambda name: time.sleep(60), most=1)
models.expect(["slow"], 2)
ahead.leave(7)
"""


def test_the_command_does_not_wait_for_a_compiler():
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", SCRIPT], check=False, timeout=50)
    assert ended.returncode == 7
    assert time.monotonic() - start < 50


def test_nothing_ends_where_nothing_is_prepared():
    ahead.leave(7)
