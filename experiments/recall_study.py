"""What does a recall lose: which k of N models are kept before any of them is fine-tuned?

    python -m experiments.recall_study

Reads experiments/corpus; takes about a minute. Of each set and seed, k models of the pool are kept
by one of the ways below. Lost: the points of accuracy by which the best model kept ends below the
best of the pool, by full fine-tuning, mean over seeds.

    published accuracy   the static prior of the product (`ncap_jax.predictor.static_prior`)
    order on other sets  by the mean of a model's ranks on the sets of other sources, a static list
                         that no user has: it knows how these very models end elsewhere
    LogME, linear probe, k-NN
                         by that score of the untouched model's features
    features             by all three, as the product does
    without k-NN         by the mean of three ranks: prior, LogME and linear probe
    prior and features   by the mean of all four, as the product does without diversity
    the product          likewise, with at most three of one family
    learned weights      by the weight of the features against the prior that lost least on the sets
                         of other sources, of those in WEIGHTS; equal weights of all four are 3/4
    one epoch            by validation accuracy after an epoch of fine-tuning
    at random            the mean over all choices

Two ways are fitted, the order on other sets and the learned weights; both leave out all sets of one
source. The second
table leaves out families instead: each way chooses from the pool without one family, for every
family in turn. Intervals are 95 % bootstraps over sets, and over seeds in each. CPU seconds are
those of the corpus: a model's features with LogME and the linear probe, which were recorded in one
run, and its first epoch with compilation.

Expected result: experiments/tables/recall_study.md; what follows: docs/results/recall.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app

from experiments import corpus_files
from experiments.finish_study import interval
from experiments.shortlist_study import RATES
from experiments.tasks import POOLS, Task, data_of, pool_files, read_tasks, without
from ncap_jax.options import Limits
from ncap_jax.predictor.static_prior import static_prior
from ncap_jax.run import facts
from ncap_jax.selection.recall import Candidate, choose, merits
from ncap_jax.zoo import MODELS, catalogue

KEPT = (3, 4, 6)
# Of the features, from the prior alone to the features alone.
WEIGHTS = (0.0, 0.25, 0.5, 2 / 3, 0.75, 0.9, 1.0)
# What the product scores features by.
RECORDED = ("logme", "linear_probe")
SCORES = (*RECORDED, "nearest_neighbours")


class Pool(NamedTuple):
    """One seed of a set, and the tasks of the same pool on all sets."""

    task: Task
    seed: int
    tasks: Sequence[Task]

    @property
    def models(self) -> list[str]:
        """Names, in the order of the truth."""
        return [run.model for run in self.task.pools[self.seed]]


Way = Callable[[Pool, int], list[int]]


def recalled(*parts: str, scores: Sequence[str] = SCORES) -> Way:
    """As the product chooses by these parts."""
    limits = Limits(recall_parts=parts)

    def way(pool: Pool, keep: int) -> list[int]:
        found = choose(candidates(pool, scores), keep, limits)
        return [pool.models.index(name) for name in found.chosen]

    return way


def candidates(pool: Pool, scores: Sequence[str]) -> list[Candidate]:
    """What the product knows of the models before training."""
    specs = [MODELS[name] for name in pool.models]
    columns = {name: pool.task.scores[name][pool.seed] for name in scores}
    return [
        Candidate(
            spec.name,
            catalogue.facts(spec).family,
            prior,
            {name: float(column[i]) for name, column in columns.items()},
        )
        for i, (spec, prior) in enumerate(zip(specs, static_prior(specs), strict=True))
    ]


def elsewhere(pool: Pool, keep: int) -> list[int]:
    """The order on other sets; a model that ran nowhere else stands in the middle."""
    ranks: dict[str, list[float]] = {model: [] for model in pool.models}
    for other in pool.tasks:
        if data_of(other.name) == data_of(pool.task.name):
            continue
        for place, i in enumerate(np.argsort(-other.truth, kind="stable")):
            name = other.pools[0][i].model
            ranks.get(name, []).append(place / (len(other.truth) - 1))
    means = [np.mean(ranks[model] or [0.5]) for model in pool.models]
    return np.argsort(means, kind="stable")[:keep].tolist()


def after_an_epoch(pool: Pool, keep: int) -> list[int]:
    """By validation accuracy after one epoch."""
    seen = [run.records[1].validation_accuracy for run in pool.task.pools[pool.seed]]
    return np.argsort(-np.array(seen), kind="stable")[:keep].tolist()


def weighted(weight: float) -> Way:
    """By the ranks of the prior and of the features, with this weight of the features."""

    def way(pool: Pool, keep: int) -> list[int]:
        known = candidates(pool, SCORES)
        prior, features = (merits(known, (part,)) for part in ("prior", "features"))
        values = weight * features + (1 - weight) * prior
        return np.argsort(values, kind="stable")[:keep].tolist()

    return way


def learned(pool: Pool, keep: int) -> list[int]:
    """By the weight that loses least on sets of other sources; of equal ones the first."""
    others = [task for task in pool.tasks if data_of(task.name) != data_of(pool.task.name)]
    means = [
        np.mean([each.mean() for each in losses(weighted(weight), others, keep)])
        for weight in WEIGHTS
    ]
    return weighted(WEIGHTS[int(np.argmin(means))])(pool, keep)


WAYS: Mapping[str, Way] = {
    "published accuracy": recalled("prior"),
    "order on other sets": elsewhere,
    "LogME": recalled("features", scores=("logme",)),
    "linear probe": recalled("features", scores=("linear_probe",)),
    "k-NN": recalled("features", scores=("nearest_neighbours",)),
    "features": recalled("features"),
    "without k-NN": recalled("prior", "features", scores=RECORDED),
    "prior and features": recalled("prior", "features"),
    "the product": recalled("prior", "features", "diversity"),
    "learned weights": learned,
    "one epoch": after_an_epoch,
}


def lost(way: Way, pool: Pool, keep: int) -> float:
    """Points that the best of those kept loses against the best of all."""
    truth = 100 * pool.task.truth
    return float(truth.max() - truth[way(pool, keep)].max())


def at_random(truth: np.ndarray, keep: int) -> float:
    """The mean over all choices of `keep` models: what the best of them loses, in points."""
    ordered = np.sort(100 * truth)[::-1]
    total = math.comb(len(ordered), keep)
    # The i-th best is the best of those kept if the others come from below it.
    chances = [math.comb(len(ordered) - 1 - i, keep - 1) / total for i in range(len(ordered))]
    return float(ordered[0] - np.dot(chances, ordered))


def losses(way: Way, tasks: Sequence[Task], keep: int) -> list[np.ndarray]:
    """Of every set, by seed."""
    return [
        np.array([lost(way, Pool(task, seed, tasks), keep) for seed in range(len(task.pools))])
        for task in tasks
    ]


def table(pools: Mapping[str, Sequence[Task]]) -> str:
    """All ways, over all sets of some pools."""
    lines = ["| way | " + " | ".join(f"k = {k}" for k in KEPT) + " |", "|---" * 4 + "|"]
    for name, way in WAYS.items():
        found = [[v for tasks in pools.values() for v in losses(way, tasks, k)] for k in KEPT]
        lines.append(f"| {name} | {' | '.join(map(interval, found))} |")
    truths = [task.truth for tasks in pools.values() for task in tasks]
    means = [np.mean([at_random(truth, k) for truth in truths]) for k in KEPT]
    lines.append(f"| at random | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join(lines)


def family_of(model: str) -> str:
    """As the product knows it."""
    return catalogue.facts(MODELS[model]).family


def families_table(pools: Mapping[str, Sequence[Task]], keep: int) -> str:
    """Points lost without one family, mean over families and sets, then the worst family."""
    lines = ["| way | mean | the worst family left out |", "|---|---|---|"]
    for name, way in WAYS.items():
        found: dict[str, list[float]] = {}
        for tasks in pools.values():
            for family in sorted({family_of(run.model) for run in tasks[0].pools[0]}):
                reduced = [without(task, family, family_of) for task in tasks]
                found.setdefault(family, []).extend(
                    float(each.mean()) for each in losses(way, reduced, keep)
                )
        means = {family: float(np.mean(values)) for family, values in found.items()}
        worst = max(means, key=means.__getitem__)
        mean = np.mean([value for values in found.values() for value in values])
        lines.append(f"| {name} | {mean:.2f} | {means[worst]:.2f} ({worst}) |")
    return "\n".join(lines)


def sets_table(pools: Mapping[str, Sequence[Task]], keep: int) -> str:
    """Points lost, set by set; mean over seeds."""
    lines = [f"| set | models | {' | '.join(WAYS)} |", "|---" * (2 + len(WAYS)) + "|"]
    for tasks in pools.values():
        columns = [losses(way, tasks, keep) for way in WAYS.values()]
        for i, task in enumerate(tasks):
            cells = [f"{column[i].mean():.2f}" for column in columns]
            lines.append(f"| {task.name} | {len(task.truth)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds_table() -> str:
    """CPU seconds of a model: what is known before training, and the first epoch; medians."""
    lines = [
        "| pool | features, LogME and linear probe | first epoch | full |",
        "|---|---|---|---|",
    ]
    for pool in POOLS:
        files = pool_files(pool, large=True)
        every = [
            line for _, found in files for line in found if line["scores"].keys() >= set(SCORES)
        ]
        scores = [_score_seconds(line) for line in every]
        runs = [
            line["runs"][corpus_files.that_ran(line, corpus_files.TRUTHS)[0]]["cpu"]
            for line in every
        ]
        cells = [scores, [cpu[1] for cpu in runs], [cpu[-1] for cpu in runs]]
        lines.append(f"| {pool} | {' | '.join(f'{np.median(cell):.1f}' for cell in cells)} |")
    return "\n".join(lines)


def _score_seconds(line: dict) -> float:
    """Each score's seconds contain the features'; those of the cheapest are taken off once."""
    seconds = [line["scores"][name]["seconds"] for name in RECORDED]
    return sum(seconds) - min(seconds)


def scored(pool: str) -> list[Task]:
    """The sets of a pool that have all scores: a probe of two images a class cannot be crossed."""
    tasks = read_tasks("linear", pool, RATES[pool], large=True)
    return [task for task in tasks if task.scores.keys() >= set(SCORES)]


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    pools = {pool: scored(pool) for pool in POOLS}
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    print(f"### All sets: {sum(map(len, pools.values()))}\n\n{table(pools)}\n")
    for pool, title in (("embedded", "Embedded"), ("genuine", "Published")):
        print(f"### {title}: {len(pools[pool])}\n\n{table({pool: pools[pool]})}\n")
    print(f"### A family left out, k = {KEPT[1]}\n\n{families_table(pools, KEPT[1])}\n")
    print(f"### Set by set, k = {KEPT[1]}\n\n{sets_table(pools, KEPT[1])}\n")
    print(f"### CPU seconds of a model, medians\n\n{seconds_table()}")


if __name__ == "__main__":
    app.run(main)
