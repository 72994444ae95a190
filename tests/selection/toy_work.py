"""Tasks for workers that need no models: they count, break, and kill the process they run in."""

from __future__ import annotations

import os
import pathlib
import signal
import time

from ncap_jax import errors

made: list[int] = []


def make():
    """Counts the orders that this worker has done before."""
    done: list[str] = []

    def work(order, emit):
        kind, argument = order
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
        return len(done)

    return work


def broken():
    raise errors.DataError("no data", "Give some")


def deadly():
    os._exit(7)
