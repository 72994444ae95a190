"""A process that fails, dies or falls silent ends the others within a stated time, by name.

The quick tests give the processes a store of their own; in the others they are real.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from ncap_jax import peers
from tests.support import command_line
from tests.support.two_processes import free_port

REMEDY = "See what each process printed, then repeat the same command on every machine: it resumes"


class Store:
    """The key-value store of `jax.distributed`, as far as it is used."""

    def __init__(self):
        self._values: dict[str, str] = {}
        self._changed = threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self._changed:
            assert allow_overwrite or key not in self._values
            self._values[key] = value
            self._changed.notify_all()

    def key_value_dir_get(self, key):
        with self._changed:
            return [item for item in self._values.items() if item[0].startswith(key)]

    def blocking_key_value_get(self, key, milliseconds):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]


@pytest.fixture
def ended(monkeypatch):
    """Exit codes of processes that were ended; here only the thread that does it ends."""
    codes: list[int] = []

    def end(code):
        codes.append(code)
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait()
        sys.exit(code)

    monkeypatch.setattr(peers, "_end", end)
    monkeypatch.setattr(peers, "PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(peers, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(peers, "LIMIT_SECONDS", 0.3)
    return codes


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_silent_process_ends_those_that_wait_for_it(ended, capsys):
    peers.Watch(Store(), 0, 2)
    until(lambda: ended)
    assert ended == [peers.FAILED] == [4]
    assert capsys.readouterr().err == (
        f"error: process 1 of 2 has given no sign of life for 0.3 seconds. {REMEDY}.\n"
    )


def test_a_process_that_ended_badly_ends_those_that_wait_for_it(ended, capsys):
    store = Store()
    store.key_value_set("ncap_jax/left/0", "2")
    peers.Watch(store, 1, 3)
    until(lambda: ended)
    assert ended == [4]
    assert capsys.readouterr().err == (
        f"error: process 0 of 3 ended with exit code 2 while this one waited for it. {REMEDY}.\n"
    )


@pytest.mark.parametrize("code", ["0", "3", "5"])
def test_a_process_that_came_to_the_end_may_be_silent(ended, code):
    store = Store()
    store.key_value_set("ncap_jax/left/0", code)
    watch = peers.Watch(store, 1, 2)
    time.sleep(3 * peers.LIMIT_SECONDS)
    assert not ended
    with pytest.raises(SystemExit):
        watch.leave(0)
    assert ended == [0]


def test_what_fails_in_all_processes_goes_on(ended):
    store = Store()
    watches = [peers.Watch(store, number, 2) for number in range(2)]
    threads = [
        threading.Thread(target=watch.failed, args=("WeightsError", "a: no file"))
        for watch in watches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not ended
    # The next time the second is alone, and then the other fails too, but in another way.
    for watch, kind in zip(reversed(watches), ("ValueError", "MemoryError")):
        with pytest.raises(peers.FailedAloneError) as error:
            watch.failed(kind, "b: mine")
        number = watches.index(watch)
        assert str(error.value) == f"process {number} of 2 failed where others did not: b: mine"
    for watch in watches:
        with pytest.raises(SystemExit):
            watch.leave(0)


# The command line with training faked, in the middle of which something happens to one process.
FAULTY = """
import os, signal, sys
import pytest
from ncap_jax import __main__, peers
from ncap_jax.finetune import loop
from tests.support import fake_training

peers.LIMIT_SECONDS, peers.GRACE_SECONDS, peers.PERIOD_SECONDS = 4.0, 0.5, 0.25
fault = sys.argv[1]
fake_training.install(pytest.MonkeyPatch())

def advance(tuning, state, epoch):
    if epoch == 2 and os.environ["JAX_PROCESS_ID"] == "1":
        if fault == "raise":
            raise ValueError("mine alone")
        os.kill(os.getpid(), getattr(signal, fault))
    return fake_training.advance(tuning, state, epoch)

loop.advance = advance
sys.argv[:2] = ["ncap_jax"]
__main__.console()
"""


def run_with(fault, folder):
    """Exit codes and standard errors of two processes, one of which meets with something."""
    address = f"127.0.0.1:{free_port()}"
    arguments = ["--models=tiny_depthwise", "--epochs=4", "--trial_rates=", "--mesh=data:2"]
    arguments += ["--distributed", f"--output_dir={folder}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FAULTY, fault, *arguments],
            env={
                **command_line.environment(),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [processes[0].communicate(timeout=120)]
        if fault == "SIGSTOP":
            processes[1].kill()
        outputs.append(processes[1].communicate(timeout=120))
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [error for _, error in outputs]


@pytest.mark.slow
def test_a_failure_in_one_process_alone_ends_both(tmp_path):
    codes, said = run_with("raise", tmp_path / "run")
    assert codes == [4, 4], said
    assert (
        "error: process 1 of 2 ended with exit code 4 while this one waited for it. "
        f"{REMEDY}.\n" in said[0]
    )
    assert (
        "error: process 1 of 2 failed where others did not: tiny_depthwise: mine alone. "
        f"{REMEDY}.\n" in said[1]
    )
    lines = (tmp_path / "run" / "trajectories" / "tiny_depthwise.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines][:2] == [0, 1]  # what it resumes after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("SIGSTOP", "process 1 of 2 has given no sign of life for 4 seconds. "),
        ("SIGKILL", "another process of this run is gone: "),
    ],
)
def test_a_process_that_hangs_or_dies_ends_the_other(tmp_path, fault, cause):
    codes, said = run_with(fault, tmp_path / "run")
    assert codes == [4, -signal.SIGKILL], said
    assert f"error: {cause}" in said[0]
    assert said[0].endswith(f"{REMEDY}.\n")
