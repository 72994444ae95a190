"""A run's way through its models: who trains up to which epoch, and who is stopped.

All models that continue are brought to the same epoch, the next rung of the strategy or what the
budget of epochs allows, before any trains further. With `strategy="full"` and no budget of epochs
that is one rung: each model runs all its epochs at once. Models that the time budget does not admit
pass through the executor all the same: their worker knows what earlier calls have left of them.

Every call takes this way from its first step, whatever earlier calls have done. A model whose
epochs are in the folder has its turn without being trained, and is compared by the epochs of that
turn alone. So a run that resumes, or has grown, takes the decisions of a fresh one.

This process alone writes the ends of models into the ledger. Workers append to their own model's
trajectory; what a worker cannot write, because it does not see the folder, is written here. Several
processes with one mesh (`ncap_jax.distributed`) run the same schedule side by side.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence

from ncap_jax.finetune.outcome import is_finite
from ncap_jax.options import RankConfig
from ncap_jax.predictor.validation_score import as_scored
from ncap_jax.run.executors import Executor, Lost
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.job import EpochDone, Task
from ncap_jax.run.recorded import Recorded, as_measured
from ncap_jax.selection import budget, halving, keeping, race
from ncap_jax.types import Trajectory, Watcher

# Who is stopped early, by `RankConfig.strategy`; with any other nobody is.
_STRATEGIES = {"halving": halving, "race": race}


class Scheduler:
    """One call's way through the models.

    Args:
        names: of all models, in order.
        config: of the run.
        folder: of the run, or None.
        watcher: told of every new epoch and of every end.
        clock: the time budget.
        turns: the names in the order in which the models have their turns; None: as `names`.
        measured: the epochs after which beta_eff counts; None: all.
        recorded: what the folder knows of the models, by name.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: RankConfig,
        folder: RunFolder | None,
        watcher: Watcher,
        clock: budget.TimeBudget,
        turns: Sequence[str] | None = None,
        measured: Collection[int] | None = None,
        recorded: Mapping[str, Recorded] | None = None,
    ):
        self._names, self._config = names, config
        self._turns = names if turns is None else turns
        self._folder, self._watcher, self._clock = folder, watcher, clock
        self._measured = measured
        self._recorded = recorded or {}
        self._waiting: dict[str, Trajectory] = {}
        self._ends: dict[str, Trajectory] = {}

    def unfinished(self) -> list[str]:
        """The models that may have something to train, in order of their turns."""
        return [name for name in self._turns if not self._reaches(name, self._config.epochs)]

    def beginners(self) -> list[str]:
        """The models that are not recorded up to the first rung, in order of their turns."""
        first = min(race.rungs(self._config), default=1)
        return [name for name in self._turns if not self._reaches(name, first)]

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Of all models, in order; once all have ended."""
        return tuple(self._ends[name] for name in self._names)

    def run(self, executor: Executor | None) -> None:
        """Bring models from rung to rung until all have ended.

        Args:
            executor: trains them; None: nobody is `unfinished`.

        Raises:
            NcapError: the folder cannot be written, or the workers cannot start.
        """
        config, epoch, alive = self._config, 0, list(self._turns)
        strategy = _STRATEGIES.get(config.strategy)
        rungs = strategy.rungs(config) if strategy else ()
        if self.unfinished() and (doubt := self._clock.doubt()):
            warnings.warn(doubt, stacklevel=2)
        while alive:
            goal = budget.target(config, list(self._ends.values()), len(alive), epoch)
            goal = min([goal, *(rung for rung in rungs if rung > epoch)])
            if goal <= epoch:
                self._stop(dict.fromkeys(alive, self._out_of_epochs(epoch)))
                return
            alive = self._advance(executor, alive, goal)
            epoch = goal
            if strategy and epoch in rungs and alive:
                known = as_scored(self._known(), config.metric)
                self._stop(strategy.stopped(known, alive, config, epoch))
                alive = [name for name in alive if name in self._waiting]
                if self._clock.races and executor is not None:
                    self._stop(self._out_of_time(known, alive, epoch, executor.workers))
                    alive = [name for name in alive if name in self._waiting]

    def _later_epochs(self, goal: int, alive: int, workers: int) -> int | None:
        """Epochs that a race trains after a turn up to an epoch; None: time is divided evenly."""
        if not self._clock.races:
            return None
        raced = sum(each.epochs > 0 for each in self._known())
        if goal == min(race.rungs(self._config), default=goal):
            raced += workers  # whose turn it is will have their first epoch
        return race.epochs_after(raced, goal, self._config, alive=min(raced, alive))

    def _out_of_time(
        self, known: Sequence[Trajectory], alive: Sequence[str], epoch: int, workers: int
    ) -> dict[str, str]:
        """Whom no time is left for, by what their epochs took; those recorded before take none."""
        seconds = {
            name: 0.0
            if self._reaches(name, self._config.epochs)
            else self._clock.epoch_seconds(name)
            for name in alive
        }
        left = self._clock.rest() * workers
        return race.out_of_time(known, alive, self._config, epoch, seconds, left)

    def _advance(self, executor: Executor | None, names: Sequence[str], goal: int) -> list[str]:
        """Bring models to an epoch, trained or recorded before; returns those that wait there."""
        turn, held = [], dict[str, Trajectory]()
        for name in names:
            if self._reaches(name, goal):
                self._settle(self._recorded[name].until(goal, self._config), goal)
            else:
                turn.append(name)
        while turn:
            assert executor is not None, "somebody is unfinished"
            held = self._turn(executor, turn, goal)
            # No time was left, but nobody has an epoch: one of them must be trained all the same.
            turn = [] if self._clock.answered else list(held)
        for trajectory in held.values():
            self._settle(trajectory, goal)
        return [name for name in names if name in self._waiting]

    def _reaches(self, name: str, epoch: int) -> bool:
        """Whether earlier calls have recorded all that this one needs of a model up to an epoch."""
        return name in self._recorded and self._recorded[name].reaches(epoch)

    def _turn(self, executor: Executor, names: Sequence[str], goal: int) -> dict[str, Trajectory]:
        """Give each model its turn; returns those that were refused before anybody had an epoch."""
        left, alive, refused = set(names), frozenset(names), set[str]()
        held: dict[str, Trajectory] = {}

        def make_task(name: str) -> Task:
            later = self._later_epochs(goal, len(names), executor.workers)
            share = self._clock.begin(name, len(left), executor.workers, later)
            if share.refusal:
                refused.add(name)
            following = names[names.index(name) + 1 :]
            others = max(0, self._clock.fitting(len(left)) - 1)
            return Task(name, goal, share, alive, tuple(following[:others]))

        def on_end(name: str, result: Trajectory | Lost) -> None:
            left.discard(name)
            trajectory = self._lost(name, result) if isinstance(result, Lost) else result
            self._clock.end(name, failed=trajectory.status not in ("ok", "stopped"))
            if name in refused and not self._clock.answered:
                held[name] = trajectory
            else:
                self._settle(trajectory, goal)

        executor.run(names, make_task, self._on_epoch, on_end)
        return held

    def _settle(self, trajectory: Trajectory, goal: int) -> None:
        """A model waits once it has reached the goal; otherwise it has ended."""
        trajectory = as_measured(trajectory, self._measured)
        if trajectory.status == "stopped" and trajectory.epochs >= goal:
            self._waiting[trajectory.model] = trajectory
        else:
            self._end(trajectory)

    def _on_epoch(self, name: str, done: EpochDone) -> None:
        if is_finite(done.record):
            self._clock.epoch(name, done.record.epoch)
        if self._folder is not None and not done.written:
            if done.record.epoch == 0:
                self._folder.files.start_again(name)
            self._folder.files.append(name, done.record)
        self._watcher.epoch(name, done.record)

    def _lost(self, name: str, lost: Lost) -> Trajectory:
        seen = self._folder.files.position(name).records if self._folder is not None else ()
        seconds = sum(record.seconds for record in seen)
        return Trajectory(name, self._config.head, seen, "failed", lost.reason, seconds)

    def _end(self, trajectory: Trajectory) -> None:
        self._waiting.pop(trajectory.model, None)
        self._ends[trajectory.model] = trajectory
        if self._folder is not None:
            self._folder.finish(trajectory)
            self._keep_states()
        self._watcher.finished(trajectory)

    def _keep_states(self) -> None:
        """Remove states that no longer belong to the first models of those that have ended."""
        assert self._folder is not None
        ended = tuple(self._ends.values())
        self._folder.keep_states(ended, keeping.leaders(ended, self._config))

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

    def _out_of_epochs(self, epoch: int) -> str:
        return (
            f"stopped by epochs_budget={self._config.epochs_budget} after {epoch} of "
            f"{self._config.epochs} epochs"
        )
