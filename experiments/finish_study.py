"""How many of the ranking should be finished, and what does the model that is kept lose?

    python -m experiments.finish_study

Reads experiments/corpus; takes about a minute. Each set and seed is replayed: rank after 5 epochs
of ordinary fine-tuning, train the first k of the ranking to the end, keep the best by validation
(`experiments.finish_replay`). The constants that halving and ties read, the models' learning rates
and the ranks of the static list come from the other sets.

Points lost: the best model's accuracy at the end of full fine-tuning minus the kept model's,

- all seeds: by the mean over the seeds;
- same seed: by the seed that was replayed; what the kept model reaches at the rate that suits it on
  the other sets. Finishing everything loses nothing here but by the rate;
- other seeds: by the mean over the others, which no choice has seen.

Intervals are 95 % bootstraps over sets, and over seeds in each. Epochs are a share of those of all
models to the end.

Expected result: experiments/tables/finish_study.md; what follows: docs/results/finish.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app

from experiments import finish_replay as replay
from experiments.finish_replay import Recorded, Way
from experiments.tasks import POOLS, data_of, priors_without_each
from ncap_jax.options import STRATEGIES
from ncap_jax.predictor import growth
from ncap_jax.run import facts
from ncap_jax.selection import metrics

DRAWS = 1000
PRODUCT = Way(top=2, patience=10)  # the defaults of `ncap_jax.FinishConfig`
WAYS: Mapping[str, Way] = {
    "rank, finish two": PRODUCT,
    "race, finish two": dataclasses.replace(PRODUCT, strategy="race"),
    "halving, finish two": dataclasses.replace(PRODUCT, strategy="halving"),
    "rank, finish one": dataclasses.replace(PRODUCT, top=1),
    "rank, finish three": dataclasses.replace(PRODUCT, top=3),
    "halving, finish three": dataclasses.replace(PRODUCT, top=3, strategy="halving"),
    "finish everything": Way(top=None, choice="last"),
}
TIED = "tied"
# What is changed -> the field, its values, the way that is changed.
CHANGES: Mapping[str, tuple[str, Sequence[Any], Way]] = {
    "finished": ("top", (1, 2, 3, 4, 5, TIED, None), PRODUCT),
    "epochs before": ("epochs", (1, 2, 3, 4, 5), PRODUCT),
    "epochs before, finish three": ("epochs", (1, 2, 3, 4, 5), WAYS["rank, finish three"]),
    "patience": ("patience", (1, 2, 3, 5, 10, None), PRODUCT),
    "compared by": ("choice", ("best", "last", "loss", "mean"), PRODUCT),
    "learning rate": ("rate", replay.HOW, PRODUCT),
    # `auto` comes to one of these.
    "strategy": ("strategy", tuple(s for s in STRATEGIES if s != "auto"), PRODUCT),
}
WORDS = {("top", None): "all", ("patience", None): "none", ("rate", "better"): "tried"}


class Result(NamedTuple):
    """A way on one set, per seed.

    `lost` (seeds, 3): points, by all seeds, the same, the others. `shares`: of all epochs.
    `finished`: how many models.
    """

    lost: np.ndarray
    shares: np.ndarray
    finished: np.ndarray


Results = list[Result]
Priors = Mapping[str, growth.Priors]
Pools = Mapping[str, Sequence[Recorded]]


def lost(runs: Recorded, seed: int, chances: np.ndarray) -> list[float]:
    """Points that a choice loses; `chances` (models,) of being kept."""
    others = runs.truths[0]  # of a set with one seed there is nothing else
    if len(runs.truths) > 1:
        others = np.delete(runs.truths, seed, axis=0).mean(axis=0)
    reached = replay.end_accuracies(runs)[seed]
    tables = [(t, t) for t in (runs.truths.mean(axis=0), others)]
    tables.insert(1, (runs.truths[seed], reached))
    return [100 * float(truth.max() - chances @ values) for truth, values in tables]


def replay_way(way: Way, sets: Sequence[Recorded], priors: Priors) -> Results:
    """Replay a way on every set and seed."""
    found = []
    for runs in sets:
        rows = [
            replay.follow(way, runs, seed, priors[data_of(runs.name)])
            for seed in range(len(runs.lines))
        ]
        one = np.eye(len(runs.models))
        found.append(
            Result(
                np.array([lost(runs, seed, one[row.model]) for seed, row in enumerate(rows)]),
                np.array([row.epochs / runs.whole(way.rate) for row in rows]),
                np.array([row.finished for row in rows]),
            )
        )
    return found


# Set, seed and number of models -> each model's chance of being kept.
Rival = Callable[[Recorded, int, int], np.ndarray]


def replay_rival(
    rival: Rival, top: int | None, sets: Sequence[Recorded], product: Results
) -> Results:
    """Models trained to the end without a ranking; None: as many as the product's epochs pay."""
    found = []
    for runs, result in zip(sets, product):
        models = len(runs.models)
        paid = int(result.shares.mean() * models) if top is None else top
        seeds = range(len(runs.lines))
        found.append(
            Result(
                np.array([lost(runs, seed, rival(runs, seed, paid)) for seed in seeds]),
                np.full(len(runs.lines), paid / models),
                np.full(len(runs.lines), paid),
            )
        )
    return found


def rivals(sets: Sequence[Recorded]) -> dict[str, Rival]:
    """What needs no early epochs."""

    def listed(order: Callable[[Recorded, int], list[int]]) -> Rival:
        def chances(runs: Recorded, seed: int, top: int) -> np.ndarray:
            kept = replay.follow_list(order(runs, seed), top, runs, seed)
            return np.eye(len(runs.models))[kept.model]

        return chances

    def drawn(runs: Recorded, seed: int, top: int) -> np.ndarray:
        order = np.argsort(-replay.end_accuracies(runs)[seed], kind="stable")
        chances = np.empty(len(order))
        chances[order] = replay.chances_of_choice(top, len(order))
        return chances

    return {
        "static list": listed(lambda runs, seed: replay.static_order(runs, sets)),
        "most parameters": listed(lambda runs, seed: replay.score_order("parameters", runs, seed)),
        "LogME": listed(lambda runs, seed: replay.score_order("logme", runs, seed)),
        "random": drawn,
    }


# ---- what is printed ----------------------------------------------------------------------------


def bootstrap(values: Sequence[np.ndarray]) -> metrics.Interval:
    """Mean over sets of the means over seeds; each draw takes sets, and seeds in each, again."""
    rng, sets = np.random.default_rng(0), len(values)
    means = np.stack([rng.choice(v, (DRAWS, sets, len(v))).mean(axis=2) for v in values])
    chosen = rng.integers(sets, size=(1, DRAWS, sets))
    samples = np.take_along_axis(means, chosen, axis=0)[0].mean(axis=1)
    return metrics.interval(float(np.mean([v.mean() for v in values])), samples)


def interval(values: Sequence[np.ndarray]) -> str:
    """A mean with its interval."""
    found = bootstrap(values)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def percent(values: Sequence[np.ndarray]) -> str:
    """The mean of shares."""
    return f"{100 * np.mean([v.mean() for v in values]):.0f} %"


def row(name: str, results: Results, product: Results) -> str:
    """One way over some sets."""
    cells = [interval([r.lost[:, i] for r in results]) for i in range(3)]
    more = [r.lost[:, 0] - p.lost[:, 0] for r, p in zip(results, product)]
    cells.append(interval(more) if np.any(more) else "")
    cells.append(percent([r.shares for r in results]))
    return f"| {name} | {' | '.join(cells)} |"


def everything(pools: Pools, priors: Priors) -> dict[str, Results]:
    """All ways and rivals on the sets of both pools, in their order."""
    found: dict[str, Results] = {}
    for sets in pools.values():
        product = replay_way(PRODUCT, sets, priors)
        for name, way in WAYS.items():
            found.setdefault(name, []).extend(replay_way(way, sets, priors))
        for name, rival in rivals(sets).items():
            for top, words in ((2, "two"), (None, "as many epochs")):
                results = replay_rival(rival, top, sets, product)
                found.setdefault(f"{name}, {words}", []).extend(results)
    return found


def main_table(found: Mapping[str, Results], names: Sequence[str], pool: str | None) -> str:
    """All ways over the sets of a pool, or over all."""
    inside = [i for i, name in enumerate(names) if pool is None or name.endswith(pool)]
    lines = [
        "| way | lost: all seeds | same seed | other seeds | more than finishing two | epochs |",
        "|---" * 6 + "|",
    ]
    product = [found["rank, finish two"][i] for i in inside]
    lines += [row(name, [results[i] for i in inside], product) for name, results in found.items()]
    return "\n".join(lines)


def sets_table(found: Mapping[str, Results], names: Sequence[str]) -> str:
    """Points lost by all seeds, set by set."""
    lines = ["| set | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    for i, name in enumerate(names):
        cells = [f"{found[way][i].lost[:, 0].mean():.2f}" for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def changes_table(pools: Pools, priors: Priors) -> str:
    """The product with one thing changed."""
    lines = [
        "| what | value | embedded: lost; epochs | published: lost; epochs "
        "| lost: all seeds | other seeds | finished |",
        "|---" * 7 + "|",
    ]
    for what, (field, values, way) in CHANGES.items():
        for value in values:
            changed = dataclasses.replace(way, **{field: value})
            cells = change_cells(changed, pools, priors)
            lines.append(f"| {what} | {WORDS.get((field, value), value)} | {cells} |")
    return "\n".join(lines)


def change_cells(way: Way, pools: Pools, priors: Priors) -> str:
    """One value's cells."""
    found = [replay_way(way, sets, priors) for sets in pools.values()]
    results = [result for part in found for result in part]
    cells = [
        f"{np.mean([r.lost[:, 0].mean() for r in part]):.2f}; {percent([r.shares for r in part])}"
        for part in found
    ]
    cells += [interval([r.lost[:, i] for r in results]) for i in (0, 2)]
    cells.append(f"{np.mean([r.finished.mean() for r in results]):.1f}")
    return " | ".join(cells)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    pools = {pool: replay.read_pool(pool) for pool in POOLS}
    sets = [runs for part in pools.values() for runs in part]
    priors = priors_without_each(runs.name for runs in sets)
    names = [runs.name for runs in sets]
    found = everything(pools, priors)
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    for title, pool in (("All sets", None), ("Embedded", "embedded"), ("Published", "genuine")):
        print(f"### {title}\n\n{main_table(found, names, pool)}\n")
    print(f"### Set by set\n\n{sets_table(found, names)}\n")
    print(f"### One thing changed\n\n{changes_table(pools, priors)}")


if __name__ == "__main__":
    app.run(main)
