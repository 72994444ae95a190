"""Executors on tasks that need no models: order, streaming, death, refusal, resources."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ncap_jax import errors
from ncap_jax.selection import executors, processes
from ncap_jax.selection.executors import Event, Local, Lost, Pool
from tests.selection import toy_work


def run(executor, orders):
    items, ends = {}, {}
    executor.run(
        list(orders),
        orders.__getitem__,
        lambda name, item: items.setdefault(name, []).append(item[1]),
        ends.__setitem__,
    )
    return items, ends


def pool(make=toy_work.make, workers=2):
    return processes.Processes(
        make, processes.environments(workers, []), processes.core_shares(workers)
    )


def test_local_runs_here_one_after_the_other():
    with Local(toy_work.make) as executor:
        items, ends = run(executor, {"a": ("x", None), "b": ("x", None)})
    assert ends == {"a": 1, "b": 2}
    assert items == {"a": [os.getpid()], "b": [os.getpid()]}


def test_processes_stream_items_and_keep_what_they_made():
    with pool() as executor:
        items, ends = run(executor, dict.fromkeys("abcd", ("sleep", 0.2)))
        pids = {pid for found in items.values() for pid in found}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert sorted(ends.values()) in ([1, 1, 2, 2], [1, 1, 2, 3])
        again, _ = run(executor, dict.fromkeys(items, ("sleep", 0.0)))
        assert sum(again[name] == items[name] for name in items) >= 2  # back where it was
    assert not any(_alive(pid) for pid in pids)


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path):
    orders = {"a": ("die once", tmp_path / "a"), "b": ("x", None), "c": ("x", None)}
    with pool() as executor:
        items, ends = run(executor, orders)
    assert set(ends) == {"a", "b", "c"}
    assert not any(isinstance(end, Lost) for end in ends.values())
    assert len(set(items["a"])) == 2


def test_a_task_that_always_kills_is_given_up(tmp_path):
    with pool() as executor:
        items, ends = run(executor, {"a": ("die", tmp_path / "a"), "b": ("x", None)})
    assert len(set(items["a"])) == executors.ATTEMPTS
    assert ends["a"] == Lost("its worker ended 3 times, last: killed by signal 9")
    assert ends["b"] == 1


@pytest.mark.parametrize(
    ("make", "kind", "error", "match"),
    [
        (toy_work.make, "refuse", errors.OutputError, "disk full"),
        (toy_work.make, "raise", errors.NcapError, "ValueError: not an error of ours"),
        (toy_work.broken, "x", errors.DataError, "no data"),
        (toy_work.deadly, "x", errors.ConfigError, "while it was starting .exit code 7"),
    ],
)
def test_errors_of_workers_are_raised_here(make, kind, error, match):
    with pool(make, workers=1) as executor, pytest.raises(error, match=match):
        run(executor, {"a": (kind, None)})


SCRIPT = """
import sys
from tests.selection.executors_test import pool
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
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    worker = int(process.stdout.readline().split()[1])
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_worker_has_its_device_and_its_share():
    assert processes.environments(2, []) == [{}, {}]
    assert processes.environments(2, ["0", "1"]) == [
        {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.900"},
        {"CUDA_VISIBLE_DEVICES": "1", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.900"},
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


class Fake(Pool):
    """Workers that answer at once, in the order of their numbers."""

    def __init__(self, workers):
        super().__init__(workers)
        self.sent: list[tuple[int, str]] = []
        self._open: list[int] = []

    def _start(self, slot): ...

    def _stop(self, slot): ...

    def _send(self, slot, order):
        self.sent.append((slot, order))
        self._open.append(slot)

    def _next_event(self, busy):
        return Event(self._open.pop(0), "result", None)


def test_tasks_go_back_to_their_worker_and_idle_ones_help():
    executor = Fake(2)
    orders = {name: name for name in "abcd"}
    run(executor, orders)
    assert executor.sent == [(0, "a"), (1, "b"), (0, "c"), (1, "d")]
    executor.sent.clear()
    run(executor, orders)
    assert executor.sent == [(0, "a"), (1, "b"), (0, "c"), (1, "d")]
    executor.sent.clear()
    run(executor, {name: name for name in "ac"})  # both were with worker 0
    assert executor.sent == [(0, "a"), (1, "c")]
    executor.sent.clear()
    run(executor, {"d": "d"})
    assert executor.sent == [(1, "d")]


@pytest.mark.parametrize(
    ("executor", "workers", "match"),
    [
        ("procesess", None, "Did you mean processes"),
        ("processes", 0, "workers=0"),
        ("ray", 1.5, "workers=1.5"),
        ("local", 2, "runs in one process"),
    ],
)
def test_executors_that_cannot_be_are_refused(executor, workers, match):
    with pytest.raises(errors.ConfigError, match=match):
        executors.check_workers(executor, workers)


def test_what_cannot_be_sent_is_named():
    processes.check_picklable({"the model 'a'": 1})
    with pytest.raises(errors.ConfigError, match="the model 'b' cannot be sent"):
        processes.check_picklable({"the model 'a'": 1, "the model 'b'": lambda: None})
