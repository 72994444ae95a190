"""Worker processes, really spawned, on tasks that need no models: death, refusal, resources."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import pytest

from ncap_jax import errors
from ncap_jax.run import executors, processes
from ncap_jax.run.executors import Lost
from tests.support import toy_work
from tests.support.toy_work import is_alive, pool, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_processes_stream_items_and_keep_what_they_made():
    with pool() as executor:
        pids, ends = run(executor, dict.fromkeys("abcd", ("sleep", 0.2)))
        workers = {pid for found in pids.values() for pid in found}
        assert len(workers) == 2
        assert os.getpid() not in workers
        assert sorted(ends.values()) in ([1, 1, 2, 2], [1, 1, 2, 3])
        again, _ = run(executor, dict.fromkeys(pids, ("sleep", 0.0)))
        assert sum(again[name] == pids[name] for name in pids) >= 2  # back where it was
    assert not any(is_alive(pid) for pid in workers)


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path):
    tasks = {
        "once": ("die once", tmp_path / "once"),
        "always": ("die", tmp_path / "always"),
        "never": ("x", None),
    }
    with pool() as executor:
        pids, ends = run(executor, tasks)
    assert not isinstance(ends["once"], Lost)
    assert len(set(pids["once"])) == 2
    assert ends["always"] == Lost("its worker ended 3 times, last: killed by signal 9")
    assert len(set(pids["always"])) == executors.ATTEMPTS
    assert not isinstance(ends["never"], Lost)


@pytest.mark.parametrize(
    ("make", "kind", "error", "cause", "remedy"),
    [
        (toy_work.make, "refuse", errors.OutputError, "disk full", "Free space"),
        (
            toy_work.make,
            "raise",
            errors.NcapError,
            "a worker failed: ValueError: not an error of ours",
            "",
        ),
        (toy_work.broken, "x", errors.DataError, "no data", "Give some"),
        (
            toy_work.deadly,
            "x",
            errors.ConfigError,
            "a worker process ended while it was starting (exit code 7)",
            "Its own message stands above. A script that ranks with executor='processes' must do "
            'so under: if __name__ == "__main__":',
        ),
    ],
)
def test_errors_of_workers_are_raised_here(make, kind, error, cause, remedy):
    with pool(make, workers=1) as executor, pytest.raises(error) as caught:
        run(executor, {"a": (kind, None)})
    assert type(caught.value) is error
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


SCRIPT = """
import sys
from tests.support.toy_work import pool
def ends(name, end): print(end)
def item(name, item): print("pid", item[1], flush=True)
if __name__ == "__main__":
    with pool(workers=1) as executor:
        executor.run(["a"], lambda name: ("sleep", 600), item, ends)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline().split()[1])
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_compute_what_one_process_does():
    """Each has a share of the cores; sums are divided over as many threads all the same."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core to share")
    with pool() as executor:
        _, ends = run(executor, dict.fromkeys("ab", ("gradient", None)))
    expected = toy_work.gradient().tobytes()
    assert [end == expected for end in ends.values()] == [True, True]


def test_the_threads_are_those_that_xla_takes(monkeypatch):
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    assert processes.thread_count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("NPROC", "5")
    assert processes.thread_count() == 5
    monkeypatch.setenv("PJRT_NPROC", "7")  # XLA looks here first
    assert processes.thread_count() == 7
    assert processes.environments(2, []) == [{"NPROC": "7"}] * 2


def test_each_worker_has_its_device_and_its_share(monkeypatch):
    monkeypatch.setattr(processes, "thread_count", lambda: 6)
    assert processes.environments(2, []) == [{"NPROC": "6"}] * 2
    assert processes.environments(2, ["0", "1"]) == [
        {
            "NPROC": "6",
            "CUDA_VISIBLE_DEVICES": device,
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.900",
        }
        for device in "01"
    ]
    shared = processes.environments(4, ["3", "5"])
    assert [e["CUDA_VISIBLE_DEVICES"] for e in shared] == ["3", "5", "3", "5"]
    assert {e["XLA_PYTHON_CLIENT_MEM_FRACTION"] for e in shared} == {"0.450"}


def test_environment_and_cores_reach_the_worker(monkeypatch):
    names = ["CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"]
    cores = processes.core_shares(2)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with processes.Processes(toy_work.make, processes.environments(1, ["7"]), cores) as executor:
        _, ends = run(executor, {"a": ("environment", names)})
    found, affinity = ends["a"]
    assert found == {"CUDA_VISIBLE_DEVICES": "7", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.900"}
    assert affinity == cores[0]
    assert not any(name in os.environ for name in names)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_core_shares_cover_the_cores(workers):
    cores, shares = os.sched_getaffinity(0), processes.core_shares(workers)
    assert len(shares) == workers
    assert all(share <= cores and share for share in shares)
    assert len({len(share) for share in shares}) == 1
    if workers <= len(cores):
        assert sum(len(share) for share in shares) == len(frozenset().union(*shares))


def test_what_cannot_be_sent_is_named():
    processes.check_picklable({"the model 'a'": 1})
    with pytest.raises(errors.ConfigError) as error:
        processes.check_picklable({"the model 'a'": 1, "the model 'b'": lambda: None})
    assert error.value.cause.startswith("the model 'b' cannot be sent to a worker process: ")
    assert error.value.remedy == (
        "Build it with a function or class at the top level of a module that can be imported, or "
        "use executor='local'"
    )
