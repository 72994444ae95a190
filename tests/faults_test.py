"""Runs killed at any moment, and inside every kind of file write, go on to the same result.

The processes are real, and so is SIGKILL. Equal means: byte for byte, once the fields that hold
wall times are taken out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ncap_jax import errors
from ncap_jax.finetune import records
from ncap_jax.run_folder import RunFolder

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMES = re.compile(rb'"(seconds|measure_seconds)": [-+.e\d]+')
MODELS = ("small_4", "small_8")


@dataclasses.dataclass
class Server:
    """Starts runs in forked processes (tests/fault_runs.py)."""

    process: subprocess.Popen
    handle: int | None = None
    seconds: float = 0.0  # that an uninterrupted run takes

    def answer(self) -> list[str]:
        words = self.process.stdout.readline().split()
        assert words, "the server is gone"
        return words

    def start(self, folder, at=0, journal="-") -> int | None:
        """Start a run; returns a file descriptor that stands for its process."""
        self.process.stdin.write(f"{folder} {at} {journal}\n")
        self.process.stdin.flush()
        pid = int(self.answer()[1])
        if self.handle is not None:
            os.close(self.handle)
        try:
            self.handle = os.pidfd_open(pid)
        except ProcessLookupError:  # killed already, inside a write
            self.handle = None
        return self.handle

    def end(self) -> int:
        """The signal that ended the run, or 0 where it came to its end; no other way is right."""
        status = int(self.answer()[1])
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server; with the calls counted where there is a C compiler."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "OPENBLAS_NUM_THREADS": "1",  # a forked process has but one thread
    }
    if shutil.which("cc"):
        shim = folder / "kill_at_write.so"
        source = ROOT / "tests" / "kill_at_write.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        environment["LD_PRELOAD"] = str(shim)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fault_runs"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
    )
    found = Server(process)
    assert found.answer() == ["ready"]
    yield found
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The folder of the run that nothing interrupts."""
    cold, warm = (tmp_path_factory.mktemp("runs") / name for name in ("cold", "warm"))
    for folder in (cold, warm):
        begin = time.monotonic()
        server.start(folder)
        assert server.end() == 0
        server.seconds = time.monotonic() - begin  # the second finds compiled programs
    check(cold, warm)
    return warm


def check(folder, whole):
    """The same result as the uninterrupted run's: bytes, epochs, ledger, and no litter."""
    for name in ("ranking.json", *(f"{records.FOLDER}/{model}.jsonl" for model in MODELS)):
        here, there = (TIMES.sub(b"", (f / name).read_bytes()) for f in (folder, whole))
        assert here == there, name
    for model in MODELS:
        found = records.read(folder / records.FOLDER / f"{model}.jsonl")
        assert [record.epoch for record in found] == [0, 1, 2, 3]
    ends = []
    for line in (folder / "ledger.jsonl").read_text().splitlines():
        try:
            ends.append(json.loads(line)["model"])
        except ValueError:
            continue  # torn by a kill; the model's end was entered again
    assert sorted(ends) == sorted(MODELS)
    assert names(folder) == names(whole)


def names(folder):
    """What lies in a run's folder, apart from the lock."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != ".lock"}


def test_a_second_process_is_refused_while_the_first_lives(server, whole, tmp_path):
    run = server.start(tmp_path)
    while not (tmp_path / records.FOLDER / "small_4.jsonl").exists():
        time.sleep(0.01)
    signal.pidfd_send_signal(run, signal.SIGSTOP)
    facts = json.loads((tmp_path / "run.json").read_text())
    with pytest.raises(errors.OutputError, match="another process"):
        RunFolder(tmp_path, facts)
    signal.pidfd_send_signal(run, signal.SIGKILL)
    assert server.end() == signal.SIGKILL
    with RunFolder(tmp_path, facts) as folder:
        assert folder.finished("probe") == {}


def kill_until(server, whole, folder, kills, seed):
    """Kill runs after random times, `kills` in all; check each that comes to its end."""
    draw, killed, ended = random.Random(seed), 0, 0
    while killed < kills:
        here = folder / str(ended)
        run = server.start(here)
        time.sleep(draw.uniform(0, server.seconds))
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            signal.pidfd_send_signal(run, signal.SIGKILL)
        if server.end() == signal.SIGKILL:
            killed += 1
        else:
            check(here, whole)
            ended += 1
    server.start(folder / str(ended))
    assert server.end() == 0
    check(folder / str(ended), whole)
    return ended + 1


def test_a_few_random_kills(server, whole, tmp_path):
    kill_until(server, whole, tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_random_kills(server, whole, tmp_path):
    ended = kill_until(server, whole, tmp_path, kills=50, seed=1)
    print(f"50 kills, {ended} runs brought to their end")


def kind(line):
    """A call by what it does to which kind of file: numbers, and random names, are the same."""
    return re.sub(r"[0-9a-f]{16,}|\d+", "#", line)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_kill_inside_each_file_write(server, whole, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    server.start(tmp_path / "whole", 0, tmp_path / "journal")
    assert server.end() == 0
    calls = (tmp_path / "journal").read_text().splitlines()
    first = {}
    for number, line in enumerate(calls, start=1):
        first.setdefault(kind(line), number)
    killed = 0
    for number in first.values():
        folder = tmp_path / str(number)
        server.start(folder, number)
        # Threads write checkpoints in calls whose number varies by some: the last may be missed.
        killed += server.end() == signal.SIGKILL
        server.start(folder)
        assert server.end() == 0
        check(folder, whole)
        shutil.rmtree(folder)
    print(f"killed inside {killed} of {len(first)} kinds of {len(calls)} calls")
    assert killed > len(first) // 2
