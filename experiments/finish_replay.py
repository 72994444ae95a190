"""Recorded full fine-tunings as if the product ran on them: rank early, finish some, keep one.

What `experiments.finish_study` puts into tables. A pool of the corpus (a data set, a seed) is
replayed under a `Way`: every model trains `epochs` epochs and is ranked as the product ranks it;
the first `top` go on, each at its learning rate; the best of them by validation is kept. A `Rival`
trains the models of a fixed list to the end instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from experiments import corpus_files
from experiments.tasks import (
    RATES,
    Rate,
    data_of,
    early_run,
    known_rates,
    pool_files,
    rate_of,
)
from ncap_jax import predictor as predictors
from ncap_jax.options import Head, RankConfig
from ncap_jax.predictor import growth
from ncap_jax.predictor.base import truncate
from ncap_jax.selection import contest, halving, race
from ncap_jax.types import Trajectory

HEAD: Head = "linear"
# What decides a learning rate: what is known from other sets, or a trial.
HOW: tuple[Rate, ...] = ("known", "better")
# By what the finished models are compared: accuracy after the last epoch or after the best one,
# validation loss after the last epoch, mean accuracy of the epochs since the ranking.
Choice = Literal["last", "best", "loss", "mean"]


@dataclasses.dataclass(frozen=True)
class Way:
    """One way from a pool to one model.

    `top`: how many are finished; None: all; `tied`: the first and all that are tied with it.
    `patience`: epochs without a better validation accuracy after which a model stops; None: it
    trains to the end. The corpus lacks some late epochs: a model is looked at where it was.
    `strategy`: who is stopped before the ranking, with the `shares` and the `margin` of the race,
    or the `threshold` of halving. `rate`: with published weights the one that suits a model on
    other sets, or the one that a trial of two for an epoch finds.
    """

    top: int | Literal["tied"] | None = 2
    epochs: int = 5
    patience: int | None = None
    choice: Choice = "best"
    strategy: str = "full"
    shares: Mapping[int, Fraction] = dataclasses.field(default_factory=lambda: race.SHARES)
    margin: float = race.STANDARD_ERRORS
    threshold: float = RankConfig.halving_threshold
    rate: Rate = "known"


class Recorded(NamedTuple):
    """A data set of the corpus: its runs as (seeds, models).

    `early` and `taken`, the kind of run, by what decides the learning rate. `truths`: accuracy at
    the end of ordinary fine-tuning at the better rate. `tried`: whether models without a known rate
    try two.
    """

    name: str
    models: list[str]
    lines: list[list[dict]]
    early: dict[Rate, list[list[Trajectory]]]
    taken: dict[Rate, list[list[str]]]
    truths: np.ndarray
    tried: bool
    length: int

    def trial(self, rate: Rate) -> int:
        """Epochs of a model's trial, beyond its first."""
        return int(self.tried and rate == "better")

    def whole(self, rate: Rate) -> int:
        """Epochs of all models to the end, their trials included."""
        return len(self.models) * (self.length + self.trial(rate))


class Kept(NamedTuple):
    """What a way ends with: the model, the epochs of all models, how many were finished."""

    model: int
    epochs: int
    finished: int


def read_pool(pool: str, *, large: bool = False) -> list[Recorded]:
    """The sets of a pool, models by name; large ones too if wanted."""
    return [recorded(path.stem, pool, lines) for path, lines in pool_files(pool, large=large)]


def recorded(name: str, pool: str, lines: Sequence[dict]) -> Recorded:
    """One corpus file."""
    by_key = {(line["model"], line["seed"]): line for line in lines}
    models = sorted({line["model"] for line in lines})
    seeds = sorted({line["seed"] for line in lines})
    rows = [[by_key[m, s] for m in models] for s in seeds if all((m, s) in by_key for m in models)]
    tried = rate_of(pool) == "better"
    # Of the embedded models all are trained at the higher rate.
    known = known_rates(pool, data_of(name)) if tried else dict.fromkeys(models, 0)
    how: dict[Rate, Rate] = {rate: rate if tried else "known" for rate in HOW}
    early = {r: [[early_run(x, HEAD, how[r], known) for x in row] for row in rows] for r in HOW}
    taken = {r: [[kind_taken(x, how[r], known) for x in row] for row in rows] for r in HOW}
    truths = np.array([[corpus_files.truth(line) for line in row] for row in rows])
    (kind, *_) = corpus_files.that_ran(lines[0], corpus_files.TRUTHS)
    length = lines[0]["runs"][kind]["epoch"][-1]
    return Recorded(name, models, rows, early, taken, truths, tried, length)


def kind_taken(line: dict, rate: Rate, known: Mapping[str, int]) -> str:
    """The kind of run whose rate a model trains at (`experiments.tasks.early_run`)."""
    kinds = corpus_files.that_ran(line, RATES[HEAD])
    if len(kinds) == 1:
        return kinds[0]
    if rate == "known":
        return RATES[HEAD][known[line["model"]]]
    return min(RATES[HEAD], key=lambda kind: number(line["runs"][kind]["validation_loss"][1]))


def number(loss: float | None) -> float:
    """A recorded loss; infinite where it was not finite."""
    return math.inf if loss is None else float(loss)


# ---- a way --------------------------------------------------------------------------------------


def follow(way: Way, runs: Recorded, seed: int, priors: growth.Priors = growth.PRIORS) -> Kept:
    """Replay one seed's pool.

    Args:
        way: the way.
        runs: the set.
        seed: row of the set.
        priors: of growth, from other sets; halving and ties read them.
    """
    early = [truncate(run, way.epochs) for run in runs.early[way.rate][seed]]
    ends = stop_early(early, way, priors)
    order = ranked(early, ends, way)
    found = [finish(way, runs, seed, model) for model in order[: count(way, early, order, priors)]]
    best = max(found, key=lambda one: one.value)  # of equal ones the first of the ranking
    spent = sum(ends) + len(ends) * runs.trial(way.rate) + sum(one.epochs for one in found)
    return Kept(best.model, spent, len(found))


def stop_early(early: Sequence[Trajectory], way: Way, priors: growth.Priors) -> list[int]:
    """Epochs of every model before the ranking."""
    ends = dict.fromkeys((run.model for run in early), way.epochs)
    config = RankConfig(epochs=way.epochs, head=HEAD, halving_threshold=way.threshold)
    rungs = {"full": (), "race": sorted(way.shares), "halving": halving.rungs(config)}
    alive = set(ends)
    for rung in rungs[way.strategy]:
        seen = [truncate(run, min(rung, ends[run.model])) for run in early]
        if way.strategy == "race":
            leave = race.stopped(seen, alive, config, rung, way.shares, way.margin)
        else:
            leave = halving.stopped(seen, alive, config, rung, priors)
        for model in leave:
            ends[model] = rung
            alive.discard(model)
    return list(ends.values())


def ranked(early: Sequence[Trajectory], ends: Sequence[int], way: Way) -> list[int]:
    """The models that were not stopped, the one with the highest score first."""
    alive = [i for i, end in enumerate(ends) if end == way.epochs]
    scores = predictors.get("default", HEAD)([early[i] for i in alive])
    order = np.argsort([-score.mean for score in scores], kind="stable")
    return [alive[i] for i in order]


def count(
    way: Way, early: Sequence[Trajectory], order: Sequence[int], priors: growth.Priors
) -> int:
    """How many of the ranking are finished."""
    if way.top != "tied":
        return len(order) if way.top is None else way.top
    method = predictors.get("default", HEAD)
    pool = [early[i] for i in order]
    return 1 + sum(contest.tied_with_first(predictors.accuracies(method, pool, priors=priors)))


class Finished(NamedTuple):
    """One finished model: what it is compared by, and its epochs after the ranking."""

    model: int
    value: float
    epochs: int


def finish(way: Way, runs: Recorded, seed: int, model: int) -> Finished:
    """Train one model on."""
    return train_on(way, runs.lines[seed][model]["runs"][runs.taken[way.rate][seed][model]], model)


def train_on(way: Way, columns: dict, model: int) -> Finished:
    """A recorded run from the ranking to where patience ends it."""
    names = ("epoch", "validation_accuracy", "validation_loss")
    looks = [row for row in zip(*(columns[name] for name in names)) if row[0] >= way.epochs]
    best_epoch, best, seen = way.epochs, -1.0, []
    for look in looks:
        seen.append(look)
        epoch, accuracy, _ = look
        if accuracy > best:
            best_epoch, best = epoch, accuracy
        elif way.patience is not None and epoch - best_epoch >= way.patience:
            break
    epoch, accuracy, loss = seen[-1]
    mean = float(np.mean([look[1] for look in seen]))
    values = {"last": accuracy, "best": best, "loss": -number(loss), "mean": mean}
    return Finished(model, values[way.choice], epoch - way.epochs)


# ---- rivals -------------------------------------------------------------------------------------


def end_accuracies(runs: Recorded) -> np.ndarray:
    """(seeds, models): where each model ends at the rate that suits it on other sets."""
    return np.array(
        [
            [line["runs"][kind]["validation_accuracy"][-1] for line, kind in zip(*row)]
            for row in zip(runs.lines, runs.taken["known"])
        ]
    )


def follow_list(order: Sequence[int], top: int, runs: Recorded, seed: int) -> Kept:
    """Train the first `top` models of a list to the end and keep the best by validation."""
    ends = end_accuracies(runs)[seed]
    best = max(order[:top], key=lambda model: ends[model])
    return Kept(best, top * runs.length, top)


def static_order(runs: Recorded, pool: Sequence[Recorded]) -> list[int]:
    """By the mean of a model's relative ranks on the other data sets of the pool, best first."""
    ranks: dict[str, list[float]] = {model: [] for model in runs.models}
    for other in pool:
        if data_of(other.name) != data_of(runs.name):
            order = np.argsort(-other.truths.mean(axis=0), kind="stable")
            for rank, model in enumerate(order):
                if other.models[model] in ranks:
                    ranks[other.models[model]].append(rank / (len(order) - 1))
    # A model that ran nowhere else stands in the middle.
    means = [np.mean(ranks[model] or [0.5]) for model in runs.models]
    return np.argsort(means, kind="stable").tolist()


def score_order(name: str, runs: Recorded, seed: int) -> list[int]:
    """By the number of parameters, or by a transferability score, highest first."""
    row = runs.lines[seed]
    values = [
        line["parameters"] if name == "parameters" else line["scores"][name]["value"]
        for line in row
    ]
    return np.argsort(-np.array(values, dtype=float), kind="stable").tolist()


def chances_of_choice(top: int, models: int) -> np.ndarray:
    """(models,): chance that the r-th best model is the best of `top` drawn at random."""
    whole = math.comb(models, top)
    return np.array([math.comb(models - r - 1, top - 1) / whole for r in range(models)])
