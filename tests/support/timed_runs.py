"""Rankings of toy models by a clock of their own: starting a model and training an epoch take time.

Nothing is compiled and nothing waits. The schedule, the workers and the files are real; only the
time that a model takes, and of several workers the processes, are made up.
"""

from __future__ import annotations

import dataclasses
import heapq
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

import ncap_jax as ncap
from ncap_jax.finetune import loop
from ncap_jax.options import RankConfig
from ncap_jax.run import ahead, pipeline, worker
from ncap_jax.types import ModelSpec, Ranking, Status
from tests.support import fake_training, toy_runs

PLAN = RankConfig(epochs=5, weights="random", trial_rates=(), strategy="full")
STEPS = 10  # an epoch's steps, between which a clock is asked


@dataclasses.dataclass
class Clock:
    """Seconds since the call began; moves only when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass(frozen=True)
class Pace:
    """What models take, in seconds.

    Attributes:
        start: from the beginning of a turn to the first step; by name, or for all.
        epoch: of training, in `STEPS` steps; likewise.
        failing: models that fail as soon as they have started.
    """

    start: float | Mapping[str, float] = 10.0
    epoch: float | Mapping[str, float] = 1.0
    failing: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A ranking, when it was made, and what was said before."""

    ranking: Ranking
    seconds: float

    @property
    def epochs(self) -> dict[str, tuple[Status, int]]:
        """Status and epochs of each model that has an epoch, in rank order."""
        rows = self.ranking.models
        return {row.name: (row.status, row.epochs) for row in rows if row.epochs}

    @property
    def messages(self) -> dict[str, str]:
        """Of each model without an epoch."""
        return {row.name: row.message for row in self.ranking.models if not row.epochs}


def models(count: int) -> list[ModelSpec]:
    """Toys `m00`, `m01`, ..., of equal size."""
    return [toy_runs.toy(number, f"m{number:02d}") for number in range(count)]


def rank(
    specs: Sequence[ModelSpec],
    pace: Pace = Pace(),
    *,
    folder: pathlib.Path | None = None,
    workers: int = 1,
    show_progress: bool = False,
    **changes: Any,
) -> Outcome:
    """Rank models that take the time that `pace` says; `changes` are to `PLAN`."""
    clock, config = Clock(), dataclasses.replace(PLAN, **changes)
    with pytest.MonkeyPatch.context() as patch:
        _install(patch, clock, pace, workers)
        ranking = ncap.rank_models(
            specs, toy_runs.digits(), config, folder, show_progress=show_progress
        )
    return Outcome(ranking, clock.now)


def _install(patch: pytest.MonkeyPatch, clock: Clock, pace: Pace, workers: int) -> None:
    fake_training.install(patch)
    starts, advances = worker.training.start, loop.advance

    def start(spec: ModelSpec, *arguments: Any) -> Any:
        clock.now += _of(pace.start, spec.name)
        if spec.name in pace.failing:
            raise RuntimeError("broken")
        return starts(spec, *arguments)

    def advance(tuning: Any, train_state: Any, epoch: int) -> Any:
        seconds = _of(pace.epoch, tuning.candidate.name) if epoch else 0.0
        for _ in range(STEPS):
            if tuning.deadline is not None:
                tuning.deadline()
            clock.now += seconds / STEPS
        quiet = dataclasses.replace(tuning, deadline=None)
        return advances(quiet, train_state, epoch)

    patch.setattr(worker.training, "start", start)
    patch.setattr(loop, "advance", advance)
    patch.setattr(time, "monotonic", clock)
    patch.setattr(ahead, "threads", lambda: 0)
    if workers > 1:
        pool = lambda config, makers, tasks: SeveralWorkers(makers.here, workers, clock)  # noqa: E731
        patch.setattr(pipeline.start, "make_executor", pool)


def _of(seconds: float | Mapping[str, float], name: str) -> float:
    return seconds if isinstance(seconds, float | int) else seconds[name]


class SeveralWorkers:
    """An executor whose workers do their tasks at the same time by the clock.

    A task is done when it starts, with the clock running ahead; what it tells is told at its time.
    """

    def __init__(self, make: Callable[[], Any], workers: int, clock: Clock):
        self.workers, self._clock = workers, clock
        self._work = make

    def __enter__(self) -> SeveralWorkers:
        self._work = self._work()
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(
        self,
        names: Sequence[str],
        make_task: Callable[[str], Any],
        on_item: Callable[[str, Any], None],
        on_end: Callable[[str, Any], None],
    ) -> None:
        """See `ncap_jax.run.executors.Executor.run`."""
        pending, events, idle, count = list(names), list[Any](), self.workers, 0
        while pending or events:
            while pending and idle:
                idle -= 1
                name = pending.pop(0)
                for when, tell in self._do(name, make_task(name), on_item, on_end):
                    count += 1
                    heapq.heappush(events, (when, count, tell))
            self._clock.now, _, tell = heapq.heappop(events)
            idle += bool(tell())

    def _do(
        self,
        name: str,
        task: Any,
        on_item: Callable[[str, Any], None],
        on_end: Callable[[str, Any], None],
    ) -> list[tuple[float, Callable[[], bool]]]:
        """The events of a task: when, and what tells of it (True: the worker is idle again)."""
        begin, events = self._clock.now, list[tuple[float, Callable[[], bool]]]()
        emit = lambda item: events.append((self._clock.now, lambda: on_item(name, item)))  # noqa: E731
        result = self._work(task, emit)
        events.append((self._clock.now, lambda: on_end(name, result) or True))
        self._clock.now = begin
        return events
