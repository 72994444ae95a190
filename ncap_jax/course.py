"""A run's way through its models: who trains up to which epoch, where, and who is stopped.

All models that go on are brought to the same epoch, the next rung of the strategy or what the
budget of epochs allows, before any goes further. With `strategy="full"` and no budget of epochs
that is one rung: each model runs all its epochs at once.

This process alone writes the ends of models into the ledger. Workers append to their own model's
trajectory; what a worker cannot write, because it does not see the folder, is written here. Several
processes with one mesh (`finetune.parallel`) go this way side by side, with a `SharedFolder`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import tempfile
import time
from collections.abc import Sequence

from ncap_jax import candidates, workers
from ncap_jax.report.progress import Progress, Watcher, Watchers
from ncap_jax.run_folder import RunFolder
from ncap_jax.selection import budget, executors, halving
from ncap_jax.types import Dataset, ModelSpec, RankConfig, Trajectory


def finetune_all(
    specs: Sequence[ModelSpec],
    dataset: Dataset,
    config: RankConfig,
    folder: RunFolder | None,
    show_progress: bool,
    watchers: Sequence[Watcher] = (),
    *,
    start: float | None = None,
) -> tuple[Trajectory, ...]:
    """Fine-tune the candidates; those that are finished in the folder are taken as they are.

    Args:
        specs: the models; their order is the trajectories'.
        dataset: checked.
        config: checked, see `workers.check`.
        folder: of the run; None: where states must outlast a pause or a worker, a temporary one.
        show_progress: on standard error.
        watchers: told of every epoch and every end.
        start: when the call started, by `time.monotonic`: the time budget counts from there.

    Raises:
        NcapError: the folder cannot be written, or the workers cannot start.
    """
    names = [spec.name for spec in specs]
    clock = budget.TimeBudget(config, time.monotonic() if start is None else start)
    with contextlib.ExitStack() as stack:
        if folder is None and needs_folder(config):
            folder = stack.enter_context(temporary_folder(names))
        file = None if show_progress else io.StringIO()
        progress = stack.enter_context(Progress(names, config.epochs, file))
        course = Course(names, config, folder, Watchers([progress, *watchers]), clock)
        left = course.left()
        if left:
            executor = stack.enter_context(workers.make_executor(specs, dataset, config, folder))
            course.run(executor, left)
        return course.trajectories()


def needs_folder(config: RankConfig) -> bool:
    """Whether a model's state must be kept outside the function that trains it."""
    return (
        config.executor != "local"
        or config.strategy == "halving"
        or config.epochs_budget is not None
    )


@contextlib.contextmanager
def temporary_folder(names: Sequence[str]):
    """A run's folder for the time of one call."""
    facts = {"config": {}, "models": dict.fromkeys(names), "data": {}}
    with tempfile.TemporaryDirectory(prefix="ncap_jax-") as path, RunFolder(path, facts) as folder:
        yield folder


class Course:
    """One call's way through the models.

    Args:
        names: of all models, in order.
        config: of the run.
        folder: of the run, or None.
        watcher: told of every epoch and every end.
        clock: the time budget.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: RankConfig,
        folder: RunFolder | None,
        watcher: Watcher,
        clock: budget.TimeBudget,
    ):
        self._names, self._config = names, config
        self._folder, self._watcher, self._clock = folder, watcher, clock
        self._waiting: dict[str, Trajectory] = {}
        self._ends = folder.finished(config.head) if folder is not None else {}
        self._before = frozenset(self._ends)
        for name in names:
            if name in self._ends:
                watcher.finished(self._ends[name])

    def left(self) -> list[str]:
        """The models that have something to do."""
        return [name for name in self._names if name not in self._ends]

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Of all models, in order; once all have ended."""
        return tuple(self._ends[name] for name in self._names)

    def run(self, executor: executors.Executor, alive: Sequence[str]) -> None:
        """Bring models from rung to rung until all have ended."""
        config, epoch = self._config, 0
        rungs = halving.rungs(config)
        while alive:
            ended = [t for name, t in self._ends.items() if name in self._names]
            goal = budget.target(config, ended, len(alive), epoch)
            goal = min([goal, *(rung for rung in rungs if rung > epoch)])
            if goal <= epoch:
                self._stop(dict.fromkeys(alive, self._spent(epoch)))
                return
            alive = self._advance(executor, alive, goal)
            epoch = goal
            if epoch in rungs and alive:
                self._stop(
                    halving.stopped(self._known(), self._rivals(alive, epoch), config, epoch)
                )
                alive = [name for name in alive if name in self._waiting]

    def _advance(self, executor: executors.Executor, names: Sequence[str], goal: int) -> list[str]:
        """Train models up to an epoch; returns those that wait there."""
        left, alive, started = set(names), frozenset(names), dict.fromkeys(names, 0.0)

        def order_of(name: str) -> candidates.Order:
            started[name] = time.monotonic()
            share = self._clock.share(name, len(left), executor.workers)
            return candidates.Order(name, goal, share, alive)

        def on_end(name: str, result: Trajectory | executors.Lost) -> None:
            left.discard(name)
            self._clock.used(name, time.monotonic() - started[name])
            if isinstance(result, executors.Lost):
                result = self._lost(name, result)
            if result.status == "stopped" and result.epochs >= goal:
                self._waiting[name] = result
            else:
                self._end(result)

        executor.run(names, order_of, self._on_item, on_end)
        return [name for name in names if name in self._waiting]

    def _on_item(self, name: str, seen: candidates.Seen) -> None:
        if self._folder is not None and not seen.written:
            if seen.record.epoch == 0:
                self._folder.start_again(name)
            self._folder.append(name, seen.record)
        self._watcher.epoch(name, seen.record)

    def _lost(self, name: str, lost: executors.Lost) -> Trajectory:
        seen = self._folder.resume_point(name) if self._folder is not None else ()
        seconds = sum(record.seconds for record in seen)
        return Trajectory(name, self._config.head, seen, "failed", lost.reason, seconds)

    def _end(self, trajectory: Trajectory) -> None:
        self._waiting.pop(trajectory.model, None)
        self._ends[trajectory.model] = trajectory
        if self._folder is not None:
            self._folder.finish(trajectory)
        self._watcher.finished(trajectory)

    def _stop(self, reasons: dict[str, str]) -> None:
        """End waiting models, each with its reason beside what its message says already."""
        for name, reason in reasons.items():
            if name in self._waiting:
                waiting = self._waiting[name]
                message = "; ".join(filter(None, (reason, waiting.message)))
                self._end(dataclasses.replace(waiting, message=message))

    def _known(self) -> list[Trajectory]:
        """All trajectories so far, in the models' order."""
        known = {**self._waiting, **self._ends}
        return [known[name] for name in self._names if name in known]

    def _rivals(self, alive: Sequence[str], rung: int) -> set[str]:
        """Who is compared at a rung: models that wait there, and those that an earlier call ended.

        The latter were in the race when this rung was decided first; without them it would be
        decided otherwise now.
        """
        past = (self._ends[name] for name in self._before if name in self._names)
        return {*alive} | {
            t.model
            for t in past
            if t.epochs >= rung and math.isfinite(t.records[rung].validation_loss)
        }

    def _spent(self, epoch: int) -> str:
        return (
            f"stopped by epochs_budget={self._config.epochs_budget} after {epoch} of "
            f"{self._config.epochs} epochs"
        )
