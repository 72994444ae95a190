"""Workers on a Ray cluster: this machine, or an existing cluster of many.

Each worker is an actor with a fixed share of the cluster's GPUs or CPUs. Ray is an extra; nothing
here is imported before it is asked for. The nodes need the same `ncap_jax` installed, and the data
set where it is streamed from files.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from ncap_jax import errors
from ncap_jax.run.executors import Event, Maker, Pool
from ncap_jax.run.processes import MEMORY_SHARE, THREADS, portable, thread_count

# How long a cluster at an address may take to answer.
ANSWER_SECONDS = 10.0
# The header of an empty frame of settings (RFC 9113, 4.1), and how a client begins (3.4).
HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS


class Resources(NamedTuple):
    """What one worker asks the cluster for; fractions share a device."""

    num_cpus: float
    num_gpus: float


class RayWorkers(Pool):
    """A pool of Ray actors; connects to a cluster, or starts one on this machine.

    Args:
        make: called once in every worker.
        workers: how many; None: one per GPU of the cluster, or per two CPUs.
        address: of an existing cluster, as `ray.init` takes it; None: `RAY_ADDRESS`, else this
            machine, or the cluster that this process is connected to already.

    Raises:
        ConfigError: Ray is not installed or cannot start, or no cluster answers at the address
            within `ANSWER_SECONDS`.
    """

    def __init__(self, make: Maker, workers: int | None, address: str | None):
        self._ray = import_ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address or os.environ.get("RAY_ADDRESS") or None)
        total = self._ray.cluster_resources()
        cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
        super().__init__(workers or max(1, int(gpus) if gpus else int(cpus) // 2))
        self._resources = resources(self.workers, cpus, gpus)
        self._make = self._ray.put(make)
        self._actors: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        try:
            _knock(address)
            self._ray.init(**options, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            if address is None:
                raise errors.ConfigError(
                    f"Ray cannot start on this machine: {error}", "Use executor='processes'"
                ) from error
            raise errors.ConfigError(
                f"no Ray cluster answers at ray_address={address!r}: {error}",
                "Start one with: ray start --head, or leave ray_address out",
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._ours:
            self._ray.shutdown()

    def _start(self, slot: int) -> None:
        actor = self._ray.remote(_Server).options(
            **self._resources._asdict(),
            max_restarts=0,  # a dead worker's task starts again in a new one, a bounded number
            runtime_env={"env_vars": environment(self._resources)},
        )
        self._actors[slot] = actor.remote(self._make)

    def _stop(self, slot: int) -> None:
        self._streams.pop(slot, None)
        self._ray.kill(self._actors.pop(slot))

    def _send(self, slot: int, task: Any) -> None:
        serve = self._actors[slot].serve.options(num_returns="streaming")
        self._streams[slot] = serve.remote(task)

    def _next_event(self, busy: Sequence[int]) -> Event:
        exceptions = self._ray.exceptions
        streams = [self._streams[slot] for slot in busy]
        ready, _ = self._ray.wait(streams, num_returns=1)
        slot = next(slot for slot in busy if self._streams[slot] is ready[0])
        try:
            kind, value = self._ray.get(next(ready[0]))
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            return Event(slot, "lost", f"{type(error).__name__}: {error}".splitlines()[0])
        return Event(slot, kind, value)


class _Server:
    """A worker: makes on its first task, then streams what each task gives."""

    def __init__(self, make: Maker):
        self._make = make
        self._work: Any = None

    def serve(self, task: Any) -> Iterator[tuple[str, Any]]:
        """Yield ("item", ...) as the task emits, and ("result", ...) or ("error", ...) last."""
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

        def work() -> None:
            try:
                if self._work is None:
                    self._work = self._make()
                result = self._work(task, lambda item: events.put(("item", item)))
                events.put(("result", result))
            except BaseException as error:
                events.put(("error", portable(error)))

        # `emit` is a call and a stream is a generator: a thread turns the one into the other.
        threading.Thread(target=work, daemon=True).start()
        kind = "item"
        while kind == "item":
            kind, value = events.get()
            yield kind, value


def _knock(address: str | None) -> None:
    """Raise OSError unless a server of Ray's kind answers: Ray itself would wait for minutes.

    Ray speaks HTTP/2, in which both sides begin with their settings.

    Args:
        address: host:port; others, such as `auto`, are Ray's to look up.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as server:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return  # what it would say is not for everybody
        try:
            server.sendall(HTTP2_HELLO)
            answer = server.recv(len(HTTP2_SETTINGS))
        except TimeoutError:
            raise TimeoutError(
                f"somebody listens there, but has said nothing for {ANSWER_SECONDS:g} seconds"
            ) from None
    if answer[3:4] != HTTP2_SETTINGS[3:4]:  # the kind of the frame
        raise ConnectionError("what listens there is not Ray")


def resources(workers: int, cpus: float, gpus: float) -> Resources:
    """Equal shares of a cluster: whole GPUs and CPUs where there are enough, else fractions."""

    def share(total: float) -> float:
        return float(int(total // workers)) if total >= workers else total / workers

    return Resources(share(cpus), min(1.0, share(gpus)))


def environment(share: Resources) -> Mapping[str, str]:
    """A worker's environment variables: this process's threads (see `ncap_jax.run.processes`).

    And its share of the memory of a GPU that it does not own.
    """
    variables = {THREADS: str(thread_count())}
    if 0 < share.num_gpus < 1:
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARE * share.num_gpus:.3f}"
    return variables


def import_ray() -> Any:
    """The package `ray`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise errors.ConfigError(
            "executor='ray' needs Ray, which is not installed", "Run: pip install 'ncap_jax[ray]'"
        ) from error
    return ray
