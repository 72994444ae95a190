"""Runs killed at any moment, and inside every kind of file write, resume to the same result.

The processes are real, and so is SIGKILL. Equal means: byte for byte, once the fields that hold
wall times are taken out. The models' training is faked where it would only take time; that a real
model's state resumes exactly after SIGKILL is also tested in tests/run/schedule_test.py.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
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
from typing import NamedTuple

import pytest

from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.run.folder import RunFolder
from tests.support import finishing
from tests.support.fault_runs import EPOCHS, MODELS

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = re.compile(rb'"(seconds|measure_seconds)": [-+.e\d]+')


@dataclasses.dataclass
class Server:
    """Starts runs in forked processes (tests/support/fault_runs.py)."""

    process: subprocess.Popen
    handle: int | None = None
    seconds: float = 0.0  # that an uninterrupted run takes

    def answer(self) -> list[str]:
        words = self.process.stdout.readline().split()
        assert words, "the server is gone"
        return words

    def start(self, folder, call=None, journal=None, *, finish=False) -> int | None:
        """Start a run; returns a file descriptor that stands for its process."""
        line = json.dumps([str(folder), call, journal and str(journal), finish])
        self.process.stdin.write(f"{line}\n")
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


@contextlib.contextmanager
def serving(folder, *options):
    """A server; with the calls counted where there is a C compiler."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "OPENBLAS_NUM_THREADS": "1",  # a forked process has but one thread
    }
    if shutil.which("cc"):
        shim = folder / "kill_at_write.so"
        source = ROOT / "tests" / "support" / "kill_at_write.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        environment["LD_PRELOAD"] = str(shim)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fault_runs", *options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
    )
    found = Server(process)
    assert found.answer() == ["ready"], (folder / "stderr").read_text()
    yield found
    process.stdin.close()
    process.wait(timeout=60)


def uninterrupted(server, folder):
    """The folder of a run that nothing interrupts; two of them agree."""
    cold, warm = folder / "cold", folder / "warm"
    for place in (cold, warm):
        begin = time.monotonic()
        server.start(place)
        assert server.end() == 0
        server.seconds = time.monotonic() - begin  # the second finds compiled programs
    check(cold, warm)
    return warm


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A server of runs whose training is faked."""
    with serving(tmp_path_factory.mktemp("fake"), "fake") as server:
        yield server


@pytest.fixture(scope="module")
def fake_whole(fake, tmp_path_factory):
    return uninterrupted(fake, tmp_path_factory.mktemp("fake_runs"))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A server of runs that really train."""
    with serving(tmp_path_factory.mktemp("real")) as server:
        yield server


@pytest.fixture(scope="module")
def real_whole(real, tmp_path_factory):
    return uninterrupted(real, tmp_path_factory.mktemp("real_runs"))


def check(folder, whole):
    """The same result as the uninterrupted run's: bytes, epochs, ledger, and no litter."""
    for name in ("ranking.json", *(f"{trajectory_files.FOLDER}/{model}.jsonl" for model in MODELS)):
        here, there = (TIMES.sub(b"", (f / name).read_bytes()) for f in (folder, whole))
        assert here == there, name
    for model in MODELS:
        found = trajectory_files.read(folder / trajectory_files.FOLDER / f"{model}.jsonl")
        assert [record.epoch for record in found] == list(range(EPOCHS + 1))
    ends = []
    for line in (folder / "ledger.jsonl").read_text().splitlines():
        try:
            ends.append(json.loads(line)["model"])
        except ValueError:
            continue  # torn by a kill; the model's end was entered again
    assert sorted(ends) == sorted(MODELS)
    assert names(folder) == names(whole)


def names(folder):
    """What lies in a run's folder, apart from the lock; of a checkpoint its epoch alone."""
    found = {p.relative_to(folder).parts for p in folder.rglob("*") if p.name != ".lock"}
    # Orbax gives the files in it random names.
    return {parts[:3] if parts[0] == "checkpoints" else parts for parts in found}


def test_a_second_process_is_refused_while_the_first_lives(fake, fake_whole, tmp_path):
    run = fake.start(tmp_path)
    while not (tmp_path / trajectory_files.FOLDER / f"{MODELS[0]}.jsonl").exists():
        time.sleep(0.001)
    signal.pidfd_send_signal(run, signal.SIGSTOP)
    facts = json.loads((tmp_path / "run.json").read_text())
    with pytest.raises(errors.OutputError) as error:
        RunFolder(tmp_path, facts)
    assert error.value.cause == f"another process is working in {tmp_path}"
    signal.pidfd_send_signal(run, signal.SIGKILL)
    assert fake.end() == signal.SIGKILL
    with RunFolder(tmp_path, facts) as folder:
        assert folder.recorded() == {}


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


def test_a_few_random_kills(fake, fake_whole, tmp_path):
    kill_until(fake, fake_whole, tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_random_kills(real, real_whole, tmp_path):
    ended = kill_until(real, real_whole, tmp_path, kills=50, seed=1)
    print(f"50 kills, {ended} runs brought to their end")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A ranking that can be finished."""
    return finishing.in_folder(finishing.rank(), tmp_path_factory.mktemp("ranked") / "run")


def finished_whole(server, ranked, folder):
    """The files of a finish that nothing interrupts."""
    shutil.copytree(ranked, folder)
    begin = time.monotonic()
    server.start(folder, finish=True)
    assert server.end() == 0
    server.seconds = time.monotonic() - begin
    return finishing.files(folder)


def kill_at(server, folder, path, lines):
    """Kill a finish once a file has so many lines."""
    run = server.start(folder, finish=True)
    deadline = time.monotonic() + 100
    while not (path.is_file() and path.read_bytes().count(b"\n") >= lines):
        assert time.monotonic() < deadline, f"{path} never had {lines} lines"
        time.sleep(0.002)
    signal.pidfd_send_signal(run, signal.SIGKILL)
    assert server.end() == signal.SIGKILL


def test_a_finish_that_is_killed_twice_gives_the_same_model(fake, ranked, tmp_path):
    """The same as in this process, byte for byte."""
    finishing.finish(shutil.copytree(ranked, tmp_path / "whole"))
    whole = finishing.files(tmp_path / "whole")
    folder = shutil.copytree(ranked, tmp_path / "killed")
    trajectories = folder / "finish" / trajectory_files.FOLDER
    kill_at(fake, folder, trajectories / "toy_1.jsonl", 5)
    kill_at(fake, folder, trajectories / "toy_3.jsonl", 4)
    fake.start(folder, finish=True)
    assert fake.end() == 0
    assert finishing.files(folder) == whole


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_finish_that_is_killed_at_twenty_random_moments(fake, ranked, tmp_path):
    """No epoch is lost but the one under way: the files have each epoch once."""
    whole = finished_whole(fake, ranked, tmp_path / "whole")
    draw, killed, folder, number = random.Random(2), 0, None, itertools.count()
    while killed < 20:
        if folder is None:
            folder = shutil.copytree(ranked, tmp_path / str(next(number)))
        run = fake.start(folder, finish=True)
        time.sleep(draw.uniform(0, fake.seconds))
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(run, signal.SIGKILL)
        if fake.end() == signal.SIGKILL:
            killed += 1
            continue
        assert finishing.files(folder) == whole
        folder = None
    if folder is not None:
        fake.start(folder, finish=True)
        assert fake.end() == 0
        assert finishing.files(folder) == whole


class Call(NamedTuple):
    """A call to be killed in: its kind, which one of that kind, whether it is done by half."""

    kind: str
    number: int
    half: bool


def calls_to_die_in(journal):
    """The middle call of each kind, to be killed before it does anything; writes by half as well.

    The middle one: an epoch that has others before and after it.
    """
    for kind, count in collections.Counter(journal.read_text().splitlines()).items():
        halves = (False, True) if kind.startswith(("write", "pwrite")) else (False,)
        for half in halves:
            yield Call(kind, (count + 1) // 2, half)


def make_bases(whole, folder):
    """Folders to start from, the furthest first: a run is shorter the more of it is there."""
    reports = [file for file in whole.iterdir() if file.name.startswith(("ranking", "report"))]
    for name in ("trained", "half"):
        shutil.copytree(whole, folder / name)
        for file in reports:
            (folder / name / file.name).unlink()
    half = folder / "half"
    ledger = (half / "ledger.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(ledger[0])["model"] == MODELS[0]
    (half / "ledger.jsonl").write_text(ledger[0])
    (half / trajectory_files.FOLDER / f"{MODELS[1]}.jsonl").unlink()
    return [folder / "trained", half, None]


def begin(base, folder):
    shutil.rmtree(folder, ignore_errors=True)
    if base is not None:
        shutil.copytree(base, folder)


def killed_inside(server, base, folder, calls, journal, tries=4):
    """Start a run and take it up again, each time to be killed inside the next of `calls`.

    How often threads that write a checkpoint call varies between runs. Where a call did not come,
    another run is to die in the last of its kind that did.
    """
    calls = list(calls)
    for _ in range(tries):
        begin(base, folder)
        for place, call in enumerate(calls):
            server.start(folder, call, journal)
            if server.end() != signal.SIGKILL:
                there = journal.read_text().splitlines().count(call.kind)
                calls[place] = call._replace(number=max(1, min(call.number, there)))
                break
        else:
            return
    raise AssertionError(f"never reached: {calls[place].kind}")


def kill_inside_each(server, whole, folder, bases, wanted=lambda call: True):
    """Kill a run inside each (wanted) kind of call that changes files, and resume it.

    From each of the base folders; and inside what only a run does that resumes a killed one.
    Returns the calls.
    """
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    run, journal = folder / "run", folder / "journal"
    plans, kinds, failures = [], set(), []

    def plan(base, before=()):
        calls = filter(wanted, calls_to_die_in(journal))
        new = [call for call in calls if call.kind not in kinds]
        plans.extend((base, (*before, call)) for call in new)
        kinds.update(call.kind for call in new)

    def finish():
        server.start(run, journal=journal)
        assert server.end() == 0
        check(run, whole)

    for base in bases:
        begin(base, run)
        finish()
        plan(base)
    for base, calls in plans:  # which grow
        try:
            killed_inside(server, base, run, calls, journal)
            finish()
        except AssertionError as error:
            failures.append(f"{calls}: {error}")
            print(failures[-1])
        else:
            plan(base, calls)
    print(f"{len(kinds)} kinds of calls, {len(plans)} runs killed inside one and resumed")
    assert not failures
    return [calls[-1] for _, calls in plans]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_kill_inside_each_kind_of_file_write(real, real_whole, tmp_path):
    kill_inside_each(real, real_whole, tmp_path, make_bases(real_whole, tmp_path))


def test_a_kill_in_the_middle_of_a_line_and_of_a_checkpoint(fake, fake_whole, tmp_path):
    """The two writes between which an epoch is torn: all other kinds are killed in when slow."""
    line = f"write /{trajectory_files.FOLDER}/small_#.jsonl"
    checkpoint = "rename /checkpoints/small_#/#"

    def wanted(call):
        return (call.kind == line and call.half) or call.kind == checkpoint

    calls = kill_inside_each(fake, fake_whole, tmp_path, [None], wanted)
    assert [call.kind.split()[0] for call in calls] == ["write", "rename"]
