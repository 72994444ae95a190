"""Where tasks run: in this process, in worker processes, or on a Ray cluster.

An executor knows nothing of models. It is given a *maker*, called once in every worker, which
returns the function that does a task: `work(task, emit) -> result`. Tasks, emitted items and
results must be picklable unless the executor is `Local`.

A worker keeps what it has made, so a task that comes again (a model's next rung) goes to the
worker that had it last, unless that one is busy and another idle. A worker that dies is replaced
and its task done again, `ATTEMPTS` times in all.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

Emit = Callable[[Any], None]
Work = Callable[[Any, Emit], Any]
Maker = Callable[[], Work]

ATTEMPTS = 3


class Lost(NamedTuple):
    """The result of a task whose workers all died."""

    reason: str


class Executor(Protocol):
    """Runs tasks; a context, inside which workers live."""

    workers: int

    def __enter__(self) -> Executor: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(
        self,
        names: Sequence[str],
        make_task: Callable[[str], Any],
        on_item: Callable[[str, Any], None],
        on_end: Callable[[str, Any], None],
    ) -> None:
        """Do one task for every name, in any order.

        Args:
            names: of the tasks.
            make_task: asked for the task at the moment it starts, and when it starts again.
            on_item: told (name, item) of everything that a task emits.
            on_end: told (name, result), or (name, `Lost`).

        Raises:
            NcapError: a worker cannot start, or `work` raised.
        """


class Local:
    """One task after the other, in this process.

    Args:
        make: called once.
    """

    workers = 1

    def __init__(self, make: Maker):
        self._make = make
        self._work: Work | None = None

    def __enter__(self) -> Local:
        self._work = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._work = None

    def run(
        self,
        names: Sequence[str],
        make_task: Callable[[str], Any],
        on_item: Callable[[str, Any], None],
        on_end: Callable[[str, Any], None],
    ) -> None:
        """See `Executor.run`."""
        for name in names:
            if self._work is None:
                self._work = self._make()

            def emit(item: Any, name: str = name) -> None:
                on_item(name, item)

            on_end(name, self._work(make_task(name), emit))


Kind = Literal["item", "result", "error", "lost"]


class Event(NamedTuple):
    """What a worker of a `Pool` reports about its task, or that it is gone."""

    slot: int
    kind: Kind
    value: Any


class Pool(abc.ABC):
    """Tasks over workers that may die; subclasses say what a worker is.

    Args:
        workers: how many at most; no more are started than there are tasks.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._started: set[int] = set()
        self._home: dict[str, int] = {}

    @abc.abstractmethod
    def _start(self, slot: int) -> None:
        """Start the worker number `slot`."""

    @abc.abstractmethod
    def _stop(self, slot: int) -> None:
        """End it, if it still lives."""

    @abc.abstractmethod
    def _send(self, slot: int, task: Any) -> None:
        """Give an idle worker its task; if the worker is dead, that is an event."""

    @abc.abstractmethod
    def _next_event(self, busy: Sequence[int]) -> Event:
        """Wait until one of the busy workers reports something."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for slot in sorted(self._started):
            self._stop(slot)
        self._started.clear()
        self._home.clear()

    def run(
        self,
        names: Sequence[str],
        make_task: Callable[[str], Any],
        on_item: Callable[[str, Any], None],
        on_end: Callable[[str, Any], None],
    ) -> None:
        """See `Executor.run`."""
        pending = list(names)
        busy: dict[int, str] = {}
        deaths: collections.Counter[str] = collections.Counter()
        while pending or busy:
            while pending and len(busy) < self.workers:
                slot, name = self._match(busy, pending)
                busy[slot] = name
                pending.remove(name)
                self._begin(slot, name, make_task(name))
            slot, kind, value = self._next_event(list(busy))
            name = busy[slot]
            if kind == "item":
                on_item(name, value)
                continue
            del busy[slot]
            if kind == "error":
                raise value
            if kind == "result":
                on_end(name, value)
                continue
            self._forget(slot)
            deaths[name] += 1
            if deaths[name] < ATTEMPTS:
                pending.insert(0, name)
            else:
                on_end(name, Lost(f"its worker ended {ATTEMPTS} times, last: {value}"))

    def _match(self, busy: Collection[int], pending: Sequence[str]) -> tuple[int, str]:
        """An idle worker and a task: one it had before, else one that none had, else any."""
        idle = [slot for slot in range(self.workers) if slot not in busy]
        for name in pending:
            if self._home.get(name) in idle:
                return self._home[name], name
        name = next((name for name in pending if name not in self._home), pending[-1])
        return next((slot for slot in idle if slot in self._started), idle[0]), name

    def _begin(self, slot: int, name: str, task: Any) -> None:
        if slot not in self._started:
            self._start(slot)
            self._started.add(slot)
        self._home[name] = slot
        self._send(slot, task)

    def _forget(self, slot: int) -> None:
        """A dead worker's slot is free for a new one; what it had kept is gone."""
        self._stop(slot)
        self._started.discard(slot)
        self._home = {name: home for name, home in self._home.items() if home != slot}
