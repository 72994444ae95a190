"""Tasks for workers that need no models: they count, break, and kill the process they run in."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.run import processes
from ncap_jax.run.executors import Emit, Executor, Maker

Task = tuple[str, Any]


def make() -> Callable[[Task, Emit], Any]:
    """The work of a worker; its result is how many tasks the worker has done."""
    done: list[str] = []

    def work(task: Task, emit: Emit) -> Any:
        kind, argument = task
        emit(("pid", os.getpid()))
        done.append(kind)
        if kind == "sleep":
            time.sleep(argument)
        if kind == "die" or (kind == "die once" and not pathlib.Path(argument).exists()):
            pathlib.Path(argument).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "refuse":
            raise errors.OutputError("disk full", "Free space")
        if kind == "raise":
            raise ValueError("not an error of ours")
        if kind == "environment":
            return {name: os.environ.get(name) for name in argument}, os.sched_getaffinity(0)
        if kind == "gradient":
            return gradient().tobytes()
        return len(done)

    return work


def gradient() -> np.ndarray:
    """The gradient of a convolution's kernel: a sum over images and pixels, divided over threads.

    Returns:
        (3, 3, 8, 16) float32.
    """
    import jax

    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, 32, 32, 8)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, 8, 16)).astype(np.float32)

    def loss(kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        features = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )
        return (features**2).sum()

    return np.asarray(jax.jit(jax.grad(loss))(kernel))


def broken() -> Any:
    """A maker that refuses."""
    raise errors.DataError("no data", "Give some")


def deadly() -> Any:
    """A maker that ends its process."""
    os._exit(7)


def pool(make: Maker = make, workers: int = 2) -> processes.Processes:
    """Worker processes without devices."""
    return processes.Processes(
        make, processes.environments(workers, []), processes.core_shares(workers)
    )


def run(executor: Executor, tasks: Mapping[str, Any]) -> tuple[dict[str, list[int]], dict]:
    """Do tasks; returns the process ids that did each, in order, and each one's end."""
    pids: dict[str, list[int]] = {}
    ends: dict[str, Any] = {}
    executor.run(
        list(tasks),
        tasks.__getitem__,
        lambda name, item: pids.setdefault(name, []).append(item[1]),
        ends.__setitem__,
    )
    return pids, ends


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
