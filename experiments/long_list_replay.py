"""Recorded fine-tunings of a long list as if the product ran on them, by a clock of their own.

The schedule, the race, the time budget, the recall and the ranking are the product's; the seconds
are CPU seconds of `experiments.build_long_lists`, on one worker. A model takes `start` seconds
before its first epoch, compilation included, and `epoch` seconds for each. In a first run the most
expensive start and features of all of a model's runs count. What computes features evaluates the
model in its fine-tuning too, and is compiled once: a model that was not looked at before compiles
it when it starts. That is `shared`, the most expensive features less the cheapest, which found it
compiled. In a later run all programs are on the disk: the cheapest start and features count.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments import build_long_lists, corpus_files
from ncap_jax.options import RankConfig
from ncap_jax.predictor.base import truncate
from ncap_jax.predictor.static_prior import static_prior
from ncap_jax.run.job import EpochDone, Task
from ncap_jax.run.schedule import Scheduler
from ncap_jax.selection import race
from ncap_jax.selection.budget import TimeBudget, TimeIsUp
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.selection.recall import Candidate
from ncap_jax.types import EpochRecord, Ranking, Trajectory
from ncap_jax.zoo import catalogue

HEAD = "linear"
# What a look takes was recorded with these two; k-NN takes hundredths of a second more, and half a
# second to compile, once for each width.
PRICED = ("logme", "linear_probe")


class Model(NamedTuple):
    """One model on one set with one seed; seconds are CPU seconds.

    `end` is the accuracy of this run after its last epoch, `left` the epochs up to it after the
    early ones.
    """

    candidate: Candidate
    parameters: int
    early: Trajectory
    end: float
    left: int
    features: float
    shared: float
    start: float
    epoch: float


class Pool(NamedTuple):
    """One seed of a set: its models, and where each ends, in points, mean over seeds."""

    name: str
    seed: int
    models: tuple[Model, ...]
    truth: np.ndarray

    @property
    def names(self) -> list[str]:
        """Of the models, in order."""
        return [model.early.model for model in self.models]


def read_pools(
    folder: pathlib.Path = build_long_lists.FOLDER, *, compiled: bool = False
) -> list[Pool]:
    """All sets and seeds in which no model is missing.

    Args:
        folder: of the recorded runs.
        compiled: whether all programs are on the disk, as in a later run.
    """
    files = {path.stem.removesuffix("_long"): path for path in sorted(folder.glob("*_long.jsonl"))}
    lines = {name: corpus_files.read(path) for name, path in files.items()}
    every = [line for found in lines.values() for line in found]
    prices = later_prices(every) if compiled else first_prices(every)
    return [pool for name, found in lines.items() for pool in _pools(name, found, prices)]


Prices = dict[str, tuple[float, float, float]]


def first_prices(lines: Sequence[Mapping]) -> Prices:
    """Model -> seconds of its features with both scores, what they share, and of its start."""
    features, starts = _seconds(lines)
    return {
        name: (max(found), max(found) - min(found), max(starts[name]))
        for name, found in features.items()
    }


def later_prices(lines: Sequence[Mapping]) -> Prices:
    """Likewise, where everything is compiled."""
    features, starts = _seconds(lines)
    return {name: (min(found), 0.0, min(starts[name])) for name, found in features.items()}


def _seconds(lines: Sequence[Mapping]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Model -> seconds of its features and of its start, of every run."""
    features: dict[str, list[float]] = {}
    starts: dict[str, list[float]] = {}
    for line in lines:
        cpu = line["runs"]["linear"]["cpu"]
        features.setdefault(line["model"], []).append(feature_seconds(line))
        starts.setdefault(line["model"], []).append(max(0.0, cpu[1] - epoch_seconds(cpu)))
    return features, starts


def feature_seconds(line: Mapping) -> float:
    """Each score's seconds contain those of the features, which are taken off once too often."""
    seconds = [line["scores"][name]["seconds"] for name in PRICED]
    return sum(seconds) - min(seconds)


def epoch_seconds(cpu: Sequence[float]) -> float:
    """Of an epoch that compiles nothing: the second to the last early one."""
    return float(np.median(np.diff(cpu[1 : build_long_lists.EARLY + 1])))


def _pools(name: str, lines: Sequence[Mapping], prices: Prices) -> list[Pool]:
    by_key = {(line["model"], line["seed"]): line for line in lines}
    names = [spec.name for spec in build_long_lists.candidates()]
    seeds = [s for s in sorted({s for _, s in by_key}) if all((m, s) in by_key for m in names)]
    ends = np.array([[corpus_files.truth(by_key[m, s]) for m in names] for s in seeds])
    known = described()
    return [
        Pool(
            name,
            seed,
            tuple(_model(by_key[m, seed], known[m], prices[m]) for m in names),
            100 * ends.mean(axis=0),
        )
        for seed in seeds
    ]


def described() -> dict[str, Candidate]:
    """Of every model what is known before anything is loaded."""
    specs = build_long_lists.candidates()
    return {
        spec.name: Candidate(spec.name, catalogue.facts(spec).family, prior)
        for spec, prior in zip(specs, static_prior(specs), strict=True)
    }


def _model(line: Mapping, known: Candidate, prices: tuple[float, float, float]) -> Model:
    columns = line["runs"]["linear"]
    scores = {n: float(line["scores"][n]["value"]) for n in build_long_lists.SCORES}
    return Model(
        dataclasses.replace(known, scores=scores),
        line["parameters"],
        corpus_files.trajectory(line["model"], HEAD, columns, build_long_lists.EARLY),
        columns["validation_accuracy"][-1],
        columns["epoch"][-1] - build_long_lists.EARLY,
        *prices,
        epoch_seconds(columns["cpu"]),
    )


# ---- the product on a pool -----------------------------------------------------------------------


class Clock:
    """Seconds since the beginning."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now


class Replayed:
    """An `ncap_jax.run.executors.Executor` that trains by looking up what was recorded."""

    workers = 1

    def __init__(self, pool: Pool, clock: Clock, seen: Collection[str]):
        self._seen = seen
        self._models = {model.early.model: model for model in pool.models}
        self._clock = clock
        self._done: dict[str, int] = {}  # epochs; 0: measured before training

    def __enter__(self) -> Replayed:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(
        self,
        names: Sequence[str],
        make_task: Callable[[str], Task],
        on_item: Callable[[str, EpochDone], None],
        on_end: Callable[[str, Trajectory], None],
    ) -> None:
        """See `ncap_jax.run.executors.Executor.run`."""
        for name in names:
            task = make_task(name)
            reason = task.share.refusal or self._train(task, on_item)
            on_end(name, self._so_far(name, reason))

    def _train(self, task: Task, on_item: Callable[[str, EpochDone], None]) -> str:
        """Up to the epoch that is asked for; returns why the turn ended early, if it did."""
        model, began = self._models[task.model], self._clock.now
        first = 0.0 if task.share.answered else None
        begin = self._done.get(task.model, -1) + 1
        for epoch in range(begin, task.until + 1):
            start = model.start + (0.0 if task.model in self._seen else model.shared)
            seconds = model.epoch if epoch else start
            end, limit = task.share.end(first)
            if self._clock.now + seconds - began > end:  # between two steps of this epoch
                self._clock.now = max(self._clock.now, began + end)
                return TimeIsUp(limit).reason(self._so_far(task.model, ""), task.until)
            self._clock.now += seconds
            self._done[task.model] = epoch
            on_item(task.model, EpochDone(model.early.records[epoch], True))
            if first is None and epoch >= task.share.needed:
                first = self._clock.now - began
        return ""

    def _so_far(self, name: str, reason: str) -> Trajectory:
        early, done = self._models[name].early, self._done.get(name)
        whole = done == early.epochs and not reason
        seen = truncate(early, done or 0)
        if done is None:
            seen = dataclasses.replace(seen, records=())
        return dataclasses.replace(seen, status="ok" if whole else "stopped", message=reason)


class Silent:
    """A watcher that nothing is shown by."""

    def epoch(self, model: str, record: EpochRecord) -> None:
        """See `ncap_jax.types.Watcher`."""

    def finished(self, trajectory: Trajectory) -> None:
        """See `ncap_jax.types.Watcher`."""


def rank(
    pool: Pool, turns: Sequence[str], config: RankConfig, begun: float, seen: Collection[str]
) -> tuple[Ranking, float]:
    """Rank some models of a pool, in these turns.

    Args:
        pool: of which the models are.
        turns: names in the order in which models have their turns.
        config: strategy and budgets.
        begun: seconds that are over already.
        seen: names of the models whose features were computed by then.

    Returns:
        The ranking, and the seconds that are over then.
    """
    clock = Clock(begun)
    scheduler = Scheduler(list(turns), config, None, Silent(), TimeBudget(config, 0.0, clock))
    scheduler.run(Replayed(pool, clock, seen))
    found = rank_trajectories(scheduler.trajectories(), pool.name, config)
    return found, clock.now


class Foreteller(Silent):
    """A watcher that asks a time budget after each first epoch how many models will race."""

    def __init__(self, budget: TimeBudget):
        self._budget, self.racing = budget, list[int]()

    def epoch(self, model: str, record: EpochRecord) -> None:
        """See `ncap_jax.types.Watcher`."""
        if record.epoch == 1:
            self.racing.append(self._budget.racing())


def foretold(pool: Pool, turns: Sequence[str], config: RankConfig) -> tuple[list[int], int]:
    """How many models shall race, as said after each first epoch, and how many then do.

    Args:
        pool: of which the models are.
        turns: names in the order in which models have their turns.
        config: of a race within a time budget.
    """
    clock = Clock()
    later = functools.partial(race.epochs_after, epoch=1, config=config)
    budget = TimeBudget(config, 0.0, clock, beside=False, later_epochs=later)
    parameters = {model.early.model: model.parameters for model in pool.models}
    budget.expect({name: parameters[name] for name in turns})
    watcher = Foreteller(budget)
    Scheduler(list(turns), config, None, watcher, budget).run(Replayed(pool, clock, ()))
    return watcher.racing, len(watcher.racing)


def finish(pool: Pool, ranking: Ranking, top: int = 2) -> tuple[int, float]:
    """Train the first models of a ranking to the end and keep the best by validation.

    Returns:
        The model's place in the pool, and the seconds it took.
    """
    rows = [row for row in ranking.models if row.rank is not None][:top]
    places = [pool.names.index(row.name) for row in rows]
    best = max(places, key=lambda place: pool.models[place].end)  # of equal ones the first
    early = build_long_lists.EARLY
    seconds = sum(
        (early - row.epochs + pool.models[place].left) * pool.models[place].epoch
        for row, place in zip(rows, places, strict=True)
    )
    return best, seconds


def lost(pool: Pool, place: int) -> float:
    """Points by which a model ends below the best one."""
    return float(pool.truth.max() - pool.truth[place])
