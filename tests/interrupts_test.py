"""Ctrl-C, for real: one line and exit code 130, at any moment, however often."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

import ncap_jax as ncap
from ncap_jax import interrupts
from tests.support import command_line

RUN = ["--models=tiny_plain_wide", "--max_train=64", "--max_validation=64", "--epochs=99999"]

LISTEN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def pressed(
    line: Sequence[str], folder: pathlib.Path, wait_for: str, delays: Sequence[float]
) -> tuple[int, list[str]]:
    """Start Python, wait for a text on standard error, press Ctrl-C after each delay.

    Returns:
        The exit code, and the lines of standard error that do not tell of imports.
    """
    log = folder / "stderr"
    with (
        log.open("w") as file,
        subprocess.Popen(
            # A shell that runs the tests in the background has them ignore Ctrl-C, and so this.
            [sys.executable, "-c", LISTEN, sys.executable, *line],
            cwd=folder,
            env=command_line.environment(),
            stdout=subprocess.DEVNULL,
            stderr=file,
        ) as process,
    ):
        while wait_for not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.002)
        for delay in delays:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    lines = log.read_text().splitlines()
    return code, [line for line in lines if not line.startswith("import time:")]


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_once_while_all_is_imported(tmp_path, delay):
    """Counted from the first import of the command itself."""
    line = ["-X", "importtime", "-m", "ncap_jax", *RUN]
    code, said = pressed(line, tmp_path, "absl.flags", [delay])
    assert code == 130
    assert [line for line in said if line.startswith("interrupted")] == said[-1:]
    assert not [line for line in said if "Traceback" in line or "KeyboardInterrupt" in line]


def test_three_times_in_the_middle_of_a_run(tmp_path):
    """What was written is whole. Once: see `__main___test.py`."""
    line = ["-m", "tests.support.fake_command", *RUN, "--output_dir=mine"]
    code, said = pressed(line, tmp_path, "epoch 3/", [0, 0.01, 0.01])
    assert code == 130
    assert not [line for line in said if "Traceback" in line or "KeyboardInterrupt" in line]
    resume = "interrupted; with --output_dir=mine the same command resumes"
    assert said[-1] in (resume, "stopping now")
    (trajectory,) = ncap.load_trajectories(tmp_path / "mine")
    assert trajectory.epochs >= 3


STUCK = """
import hashlib, sys
from ncap_jax import interrupts
interrupts.install()
with interrupts.job(str):
    print("in C", file=sys.stderr, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # many minutes, without Python
"""


def test_the_second_one_does_not_wait_for_a_compiler(tmp_path):
    assert pressed(["-c", STUCK], tmp_path, "in C", [0, 0.2]) == (130, ["in C", "stopping now"])


QUIET = """
import atexit, sys, time
def last():
    print("at exit", file=sys.stderr, flush=True)
    time.sleep(30)
from ncap_jax import interrupts
interrupts.install()
atexit.register(last)
"""


def test_while_python_ends(tmp_path):
    assert pressed(["-c", QUIET], tmp_path, "at exit", [0]) == (130, ["at exit", "interrupted"])


IGNORED = """
import signal, os, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from ncap_jax import interrupts
interrupts.install()
os.kill(os.getpid(), signal.SIGINT)
sys.exit(7)
"""


def test_where_it_is_ignored_it_stays_ignored(tmp_path):
    result = subprocess.run([sys.executable, "-c", IGNORED], env=command_line.environment())
    assert result.returncode == 7


def test_the_command_is_told_from_a_library_and_a_worker(monkeypatch):
    monkeypatch.delitem(sys.modules, "multiprocessing.spawn", raising=False)
    assert interrupts.is_command("__main__", "/usr/lib/ncap_jax/__main__.py")
    assert interrupts.is_command("ncap_jax.__main__", "/usr/bin/ncap_jax")
    assert not interrupts.is_command("ncap_jax.__main__", "/usr/bin/pytest")
    monkeypatch.setitem(sys.modules, "multiprocessing.spawn", interrupts)
    assert not interrupts.is_command("ncap_jax.__main__", "/usr/bin/ncap_jax")
