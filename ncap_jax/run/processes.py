"""Worker processes on this machine: each with its device, its share of memory and of the cores.

A worker computes with as many threads as this process would, though it has fewer cores: on a CPU
XLA divides some sums, such as a convolution's gradient, over its threads, and other parts of a sum
round differently. So a worker's numbers are those of one process.

Workers are spawned, never forked: JAX's threads do not survive a fork. What they are given must
therefore be picklable, and a script that starts them needs the guard `if __name__ == "__main__":`.
A worker ends by itself when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection, reduction
from typing import Any

from ncap_jax import errors
from ncap_jax.run.executors import Event, Maker, Pool

# Of a device's memory; the rest is for the process that hands out the work.
MEMORY_SHARE = 0.9
# The variable from which XLA takes the number of its threads (xla/pjrt/utils.cc).
THREADS = "NPROC"
# Seconds in which a worker may end by itself.
_GRACE = 5.0


class Processes(Pool):
    """A pool of spawned processes.

    Args:
        make: called once in every worker.
        environments: a worker's environment variables each, see `environments`.
        cores: a worker's cores each, see `core_shares`; empty sets: all.
    """

    def __init__(
        self,
        make: Maker,
        environments: Sequence[Mapping[str, str]],
        cores: Sequence[frozenset[int]],
    ):
        super().__init__(len(environments))
        self._context = mp.get_context("spawn")
        self._make, self._environments, self._cores = make, environments, cores
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Any] = {}
        self._ready: set[int] = set()

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._make, self._cores[slot]),
            name=f"ncap_jax worker {slot}",
            daemon=True,
        )
        with _environment(self._environments[slot]):
            process.start()
        theirs.close()
        self._processes[slot], self._pipes[slot] = process, ours

    def _stop(self, slot: int) -> None:
        self._ready.discard(slot)
        self._pipes.pop(slot).close()
        process = self._processes.pop(slot)
        process.terminate()
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()

    def _send(self, slot: int, task: Any) -> None:
        # A worker that is dead already is found out when its pipe is read.
        with contextlib.suppress(OSError):
            self._pipes[slot].send(task)

    def _next_event(self, busy: Sequence[int]) -> Event:
        while True:
            pipes = {self._pipes[slot]: slot for slot in busy}
            pipe: Any = connection.wait(list(pipes))[0]
            slot = pipes[pipe]
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                return self._died(slot)
            if kind != "ready":
                return Event(slot, kind, value)
            self._ready.add(slot)

    def _died(self, slot: int) -> Event:
        process = self._processes[slot]
        process.join(_GRACE)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if slot not in self._ready:
            raise errors.ConfigError(
                f"a worker process ended while it was starting ({how})",
                "Its own message stands above. A script that ranks with executor='processes' "
                'must do so under: if __name__ == "__main__":',
            )
        return Event(slot, "lost", how)


def _serve(pipe: Any, make: Maker, cores: frozenset[int]) -> None:
    """The life of a worker: make, then task after task until it is ended."""
    # Ctrl-C goes to the whole group; the process that hands out the work ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before JAX counts them
    try:
        work = make()
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            pipe.send(("result", work(task, lambda item: pipe.send(("item", item)))))
    except EOFError:
        return
    except Exception as error:
        pipe.send(("ready", None))
        pipe.send(("error", portable(error)))


def portable(error: BaseException) -> errors.NcapError:
    """The error as one that can be sent to another process; other packages' may not be."""
    if isinstance(error, errors.NcapError):
        return error
    return errors.NcapError(f"a worker failed: {type(error).__name__}: {error}")


def _follow_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def check_picklable(things: Mapping[str, Any]) -> None:
    """Refuse what cannot be sent to a process.

    Raises:
        ConfigError: names the first such thing.
    """
    for name, thing in things.items():
        try:
            reduction.ForkingPickler.dumps(thing)
        except Exception as error:
            raise errors.ConfigError(
                f"{name} cannot be sent to a worker process: {error}",
                "Build it with a function or class at the top level of a module that can be "
                "imported, or use executor='local'",
            ) from error


def environments(workers: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Environment variables of each worker: threads, a CUDA device, and a share of its memory.

    Args:
        workers: how many.
        devices: names of the CUDA devices, as `CUDA_VISIBLE_DEVICES` has them; empty: CPU.
    """
    threads = {THREADS: str(thread_count())}
    if not devices:
        return [threads for _ in range(workers)]
    share = MEMORY_SHARE / math.ceil(workers / len(devices))
    return [
        {
            **threads,
            "CUDA_VISIBLE_DEVICES": devices[slot % len(devices)],
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.3f}",
        }
        for slot in range(workers)
    ]


def thread_count() -> int:
    """With how many threads XLA computes on this process's CPU; numbers depend on it."""
    for name in (f"PJRT_{THREADS}", THREADS):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_shares(workers: int) -> list[frozenset[int]]:
    """Each worker's cores, of those that this process may use: equal shares, at least one."""
    if not hasattr(os, "sched_getaffinity"):
        return [frozenset()] * workers
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // workers)
    return [
        frozenset(cores[(slot * size + i) % len(cores)] for i in range(size))
        for slot in range(workers)
    ]
