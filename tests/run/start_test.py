"""The executor that the options give: its kind, its workers, and where their work is made."""

from __future__ import annotations

import os

import jax
import pytest

from ncap_jax import errors
from ncap_jax.options import Execution
from ncap_jax.run import executors, processes, start
from tests.support import toy_work


def elsewhere():
    raise AssertionError("made in this process")


def here():
    raise AssertionError("made in another process")


MAKERS = start.Makers(toy_work.make, toy_work.make)


def test_local_makes_its_work_here():
    makers = start.Makers(toy_work.make, elsewhere)
    with start.make_executor(Execution(), makers, 3) as executor:
        assert isinstance(executor, executors.Local)
        assert toy_work.run(executor, {"a": ("x", None)})[1] == {"a": 1}


def test_processes_make_theirs_elsewhere():
    makers = start.Makers(here, toy_work.make)
    execution = Execution(executor="processes", workers=1)
    with start.make_executor(execution, makers, 1) as executor:
        pids, ends = toy_work.run(executor, {"a": ("x", None)})
    assert ends == {"a": 1}
    assert pids["a"] != [os.getpid()]


@pytest.mark.parametrize(
    ("workers", "tasks", "devices", "expected"),
    [
        (2, 5, [], 2),
        (5, 2, [], 2),  # no more than there are tasks
        (None, 5, ["0", "1", "2"], 3),  # one for each device
        (None, 99, [], max(1, (os.cpu_count() or 2) // 2)),
    ],
)
def test_the_number_of_processes(monkeypatch, workers, tasks, devices, expected):
    monkeypatch.setattr(start, "cuda_devices", lambda: devices)
    executor = start.make_executor(Execution("processes", workers), MAKERS, tasks)
    assert isinstance(executor, processes.Processes)
    assert executor.workers == expected


def test_ray_is_asked_for_workers_at_the_address(monkeypatch):
    def workers(make, number, address):
        return make, number, address

    monkeypatch.setattr(start, "RayWorkers", workers)
    found = start.make_executor(Execution("ray", 4, "auto"), start.Makers(here, elsewhere), 9)
    assert found == (elsewhere, 4, "auto")


def test_cuda_devices_are_the_visible_ones(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert start.cuda_devices() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert start.cuda_devices() == [str(device.id) for device in jax.local_devices()]
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert start.cuda_devices() == []


def test_a_tpu_is_not_divided(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(errors.ConfigError) as error:
        start.make_executor(Execution("processes"), MAKERS, 2)
    assert error.value.cause == "executor='processes' on a TPU, which belongs to one process"
    assert error.value.remedy == "Use executor='local', or 'ray' over several machines"
