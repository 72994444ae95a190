"""A long list: recall, race and finish against simpler ways, with and without a time budget.

    python -m experiments.long_list_study

Reads experiments/corpus/long_lists; takes about two minutes. Each set and seed is replayed by the
product's own code (`experiments.long_list_replay`): 41 candidates, five epochs, the first two of
the ranking finished to the tenth epoch, the better of them by validation kept.

Without a budget:

    race over all            no recall
    the product              a recall of 12 by prior, features and family, then the race
    recall of 6, of 20       likewise
    published accuracy       the first k of the static list, all epochs
    LogME                    the first k by LogME of the untouched features, which all models have
    one epoch, keep k        every model has an epoch, k go on to the fifth

k is the largest number whose mean seconds are at most the product's, and two at least. Within a
budget, a share of the seconds of the race over all without its finish: in which order models have
their turns, and whether they race or train all epochs one after another. Looking takes a third of
the budget at most; what is not looked at by then is ranked without its features in a recall, and
comes last by LogME.

Lost: points of the kept model against the best by full fine-tuning, mean over seeds, with 95 %
bootstraps over sets, and over seeds in each. Seconds are CPU seconds on one worker: of a first run,
and of a later one, which finds its programs compiled.

Expected result: experiments/tables/long_list_study.md; what follows: docs/results/long-lists.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app

from experiments import build_long_lists
from experiments import long_list_replay as replay
from experiments.finish_study import interval
from experiments.long_list_replay import Pool
from ncap_jax.options import Limits, RankConfig
from ncap_jax.run import facts
from ncap_jax.selection import recall

BUDGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
# Of a budget, which a recall may take.
PART = 1 / 3
CONFIG = RankConfig(epochs=build_long_lists.EARLY, head="linear", strategy="race")


class Outcome(NamedTuple):
    """One seed's pool: points lost, seconds of each stage, models that had an epoch."""

    lost: float
    recall: float
    race: float
    finish: float
    trained: int

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.recall + self.race + self.finish


Way = Callable[[Pool], Outcome]


class Turns(NamedTuple):
    """Models in the order of their turns, the seconds that it took to find it, and who was seen."""

    order: list[int]
    seconds: float = 0.0
    seen: frozenset[str] = frozenset()


def raced(pool: Pool, turns: Turns, budget: float | None = None, strategy: str = "race") -> Outcome:
    """Rank models in these turns and finish two.

    Args:
        pool: of which they are.
        turns: which, in what order.
        budget: seconds of recall and ranking; None: unlimited.
        strategy: see `RankConfig`.
    """
    config = dataclasses.replace(CONFIG, strategy=strategy, time_budget=budget)
    names = [pool.names[place] for place in turns.order]
    ranking, now = replay.rank(pool, names, config, turns.seconds, turns.seen)
    place, finishing = replay.finish(pool, ranking)
    trained = sum(row.epochs > 0 for row in ranking.models)
    return Outcome(replay.lost(pool, place), turns.seconds, now - turns.seconds, finishing, trained)


# ---- orders --------------------------------------------------------------------------------------


def looked_at(pool: Pool, seconds: float = math.inf) -> tuple[list[recall.Candidate], float]:
    """The candidates with the scores that a recall has after these seconds, and what it took.

    The most promising by the prior come first; none is begun with once the time is over.
    """
    found = [model.candidate for model in pool.models]
    skipped = recall.not_worth_a_look(found, recall.KEPT, CONFIG.recall_parts)
    now = 0.0
    for place in np.argsort(recall.merits(found, ("prior",)), kind="stable").tolist():
        if now >= seconds or found[place].name in skipped:
            found[place] = dataclasses.replace(found[place], scores={})
        else:
            now += pool.models[place].features
    return found, now


def recalled(pool: Pool, keep: int, seconds: float = math.inf) -> Turns:
    """As the product chooses, best first."""
    candidates, spent = looked_at(pool, seconds)
    chosen = recall.choose(candidates, keep, Limits()).chosen
    seen = frozenset(each.name for each in candidates if each.scores)
    return Turns([pool.names.index(name) for name in chosen], spent, seen)


def recalled_in_time(pool: Pool, budget: float) -> Turns:
    """Likewise, as many as there may be time for."""
    candidates, spent = looked_at(pool, PART * budget)
    seconds = [pool.models[pool.names.index(c.name)].features for c in candidates if c.scores]
    keep = recall.kept_in_time(budget - spent, seconds, len(candidates))
    return recalled(pool, keep, PART * budget)


def by_prior(pool: Pool, keep: int) -> Turns:
    """As the product chooses without features."""
    limits = Limits(recall_parts=("prior", "diversity"))
    chosen = recall.choose([model.candidate for model in pool.models], keep, limits).chosen
    return Turns([pool.names.index(name) for name in chosen])


def by_value(pool: Pool, values: Sequence[float], seconds: float = 0.0) -> Turns:
    """The highest first; what is not known last."""
    return Turns(np.argsort([-v for v in values], kind="stable").tolist(), seconds)


def published(pool: Pool) -> Turns:
    """The static list."""
    return by_value(pool, [model.candidate.prior for model in pool.models])


def by_logme(pool: Pool, seconds: float = math.inf) -> Turns:
    """By LogME alone, of all models that these seconds suffice for; the others last."""
    candidates, spent = looked_at(pool, seconds)
    values = [each.scores.get("logme", -math.inf) for each in candidates]
    seen = frozenset(each.name for each in candidates if each.scores)
    return by_value(pool, values, spent)._replace(seen=seen)


def small_first(pool: Pool) -> Turns:
    """As a time budget without a recall admits: pretrained models first, then small ones."""
    drawn = [math.isinf(model.candidate.prior) for model in pool.models]
    sizes = [model.parameters for model in pool.models]
    order = sorted(range(len(sizes)), key=lambda place: (drawn[place], sizes[place]))
    return Turns(order)


def first(turns: Turns, k: int) -> Turns:
    """The first k."""
    return turns._replace(order=turns.order[:k])


# ---- ways ----------------------------------------------------------------------------------------


def an_epoch_each(pool: Pool, k: int) -> Outcome:
    """Every model has one epoch, the k best by validation accuracy go on."""
    seen = [model.early.records[1].validation_accuracy for model in pool.models]
    left = raced(pool, first(by_value(pool, seen), k), strategy="full")
    # The first epochs of these are among their own.
    others = sorted(range(len(seen)), key=lambda place: (-seen[place], place))[k:]
    models = [pool.models[place] for place in others]
    more = sum(model.start + model.shared + model.epoch for model in models)
    return left._replace(race=left.race + more, trained=len(seen))


UNLIMITED: Mapping[str, Way] = {
    "race over all": lambda pool: raced(pool, Turns(list(range(len(pool.models))))),
    "the product": lambda pool: raced(pool, recalled(pool, recall.KEPT)),
    "recall of 6": lambda pool: raced(pool, recalled(pool, 6)),
    "recall of 20": lambda pool: raced(pool, recalled(pool, 20)),
    "recall of 12 without features": lambda pool: raced(pool, by_prior(pool, recall.KEPT)),
    "recall of 20 without features": lambda pool: raced(pool, by_prior(pool, 20)),
}
WITH_K: Mapping[str, Callable[[Pool, int], Outcome]] = {
    "published accuracy": lambda pool, k: raced(pool, first(published(pool), k), strategy="full"),
    "LogME": lambda pool, k: raced(pool, first(by_logme(pool), k), strategy="full"),
    "one epoch, keep k": an_epoch_each,
}
IN_TIME: Mapping[str, Callable[[Pool, float], Outcome]] = {
    "small first, one after another": lambda p, t: raced(p, small_first(p), t, "full"),
    "small first, race": lambda p, t: raced(p, small_first(p), t),
    "published accuracy, one after another": lambda p, t: raced(p, published(p), t, "full"),
    "published accuracy, race": lambda p, t: raced(p, published(p), t),
    "LogME, one after another": lambda p, t: raced(p, by_logme(p, PART * t), t, "full"),
    "LogME, race": lambda p, t: raced(p, by_logme(p, PART * t), t),
    "recall of 12, one after another": lambda p, t: raced(
        p, recalled(p, recall.KEPT, PART * t), t, "full"
    ),
    "recall of 12, race": lambda p, t: raced(p, recalled(p, recall.KEPT, PART * t), t),
    "recall without features, race": lambda p, t: raced(p, by_prior(p, len(p.models)), t),
    "recall in time, race": lambda p, t: raced(p, recalled_in_time(p, t), t),
}


def with_k(way: Callable[[Pool, int], Outcome], k: int) -> Way:
    """The way with this number of models."""
    return lambda pool: way(pool, k)


def by_set(pools: Sequence[Pool], way: Way) -> list[list[Outcome]]:
    """(sets, seeds)"""
    names = dict.fromkeys(pool.name for pool in pools)
    return [[way(pool) for pool in pools if pool.name == name] for name in names]


def mean_seconds(results: Sequence[Sequence[Outcome]]) -> float:
    """Mean over sets of the means over seeds."""
    return float(np.mean([np.mean([one.seconds for one in rows]) for rows in results]))


def equal_seconds(
    pools: Sequence[Pool], way: Callable[[Pool, int], Outcome], seconds: float
) -> int:
    """The largest k whose mean seconds are at most these; two at least."""
    found = 2
    for k in range(3, len(pools[0].models) + 1):
        if mean_seconds(by_set(pools, with_k(way, k))) > seconds:
            break
        found = k
    return found


def row(
    name: str,
    results: Sequence[Sequence[Outcome]],
    reference: Sequence[Sequence[Outcome]],
) -> str:
    """Points lost, the difference to the reference, seconds of each stage and their share of it."""
    lost = [np.array([one.lost for one in rows]) for rows in results]
    more = [a - np.array([one.lost for one in rows]) for a, rows in zip(lost, reference)]
    cells = [interval(lost), interval(more) if any(map(np.any, more)) else ""]
    for part in ("recall", "race", "finish", "seconds"):
        cells.append(
            f"{np.mean([np.mean([getattr(o, part) for o in rows]) for rows in results]):.0f}"
        )
    cells.append(f"{100 * mean_seconds(results) / mean_seconds(reference):.0f} %")
    cells.append(f"{np.mean([np.mean([o.trained for o in rows]) for rows in results]):.1f}")
    return f"| {name} | {' | '.join(cells)} |"


HEADER = (
    "| way | lost | more than the race over all | recall, s | race, s | finish, s | in all, s "
    "| of the race over all | trained |\n" + "|---" * 9 + "|"
)


def unlimited_table(pools: Sequence[Pool]) -> str:
    """All ways without a budget."""
    found = {name: by_set(pools, way) for name, way in UNLIMITED.items()}
    seconds = mean_seconds(found["the product"])
    for name, way in WITH_K.items():
        k = equal_seconds(pools, way, seconds)
        found[f"{name}, k = {k}"] = by_set(pools, with_k(way, k))
    reference = found["race over all"]
    return "\n".join([HEADER, *(row(name, rows, reference) for name, rows in found.items())])


def budgets_table(pools: Sequence[Pool]) -> str:
    """Points lost in each budget, how many models had an epoch, and the seconds with the finish."""
    whole = {(p.name, p.seed): UNLIMITED["race over all"](p) for p in pools}
    reference = by_set(pools, lambda pool: whole[pool.name, pool.seed])
    lines = [
        "| way | " + " | ".join(f"{100 * share:.0f} %" for share in BUDGETS) + " |",
        "|---" * (1 + len(BUDGETS)) + "|",
    ]
    for name, way in IN_TIME.items():
        cells = []
        for share in BUDGETS:

            def limited(pool: Pool, way=way, share=share) -> Outcome:
                unlimited = whole[pool.name, pool.seed]
                return way(pool, share * (unlimited.seconds - unlimited.finish))

            results = by_set(pools, limited)
            lost = interval([np.array([one.lost for one in rows]) for rows in results])
            trained = np.mean([np.mean([one.trained for one in rows]) for rows in results])
            taken = 100 * mean_seconds(results) / mean_seconds(reference)
            cells.append(f"{lost}; {trained:.1f} models; {taken:.0f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def forecast_table(pools: Sequence[Pool]) -> str:
    """With how many models a race in a budget was foretold to begin, and how far that was off."""
    whole = {(p.name, p.seed): UNLIMITED["race over all"](p) for p in pools}
    lines = [
        "| order | budget | models that raced | foretold after 1 | after 2 | after 3 "
        "| off by, after 1 | after 2 | after 3 |",
        "|---" * 9 + "|",
    ]
    for name, order in {"small first": small_first, "published accuracy": published}.items():
        for share in BUDGETS:
            rows = []
            for pool in pools:
                reference = whole[pool.name, pool.seed]
                seconds = share * (reference.seconds - reference.finish)
                config = dataclasses.replace(CONFIG, time_budget=seconds)
                turns = [pool.names[place] for place in order(pool).order]
                said, came = replay.foretold(pool, turns, config)
                rows.append((came, *(said[min(k, came) - 1] for k in (1, 2, 3))))
            found = np.array(rows, float)
            off = 100 * np.abs(found[:, 1:] / found[:, :1] - 1).mean(axis=0)
            cells = [f"{mean:.1f}" for mean in found.mean(axis=0)] + [f"{one:.0f} %" for one in off]
            lines.append(f"| {name} | {100 * share:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def growth_of_seconds(pools: Sequence[Pool]) -> str:
    """The powers of the number of parameters that seconds grow with, by least squares."""
    lines = []
    for name, seconds in (("start", lambda m: m.start), ("epoch", lambda m: m.epoch)):
        powers, correlations = [], []
        for pool in pools:
            size = np.log([model.parameters for model in pool.models])
            taken = np.log([seconds(model) for model in pool.models])
            powers.append(np.polyfit(size, taken, 1)[0])
            correlations.append(np.corrcoef(size, taken)[0, 1])
        lines.append(
            f"{name}: parameters to the power of {np.mean(powers):.2f}, correlation of the "
            f"logarithms {np.mean(correlations):.2f}"
        )
    return "Seconds to the first step and of an epoch. " + "; ".join(lines) + "."


def stated_table(pools: Sequence[Pool]) -> str:
    """The race beside all epochs of all models, on sets that its rule was not chosen on.

    What the ranking states is of the models that ran to the end: the loss of its first one, and the
    shortlist, which shall hold a model within a point of the best of them.
    """
    lines = [
        "| strategy | epochs | lost by the first | two finished | stated of those compared | true "
        "| shortlist | holds |",
        "|---" * 8 + "|",
    ]
    for strategy in ("full", "race"):
        rows = [_stated(pool, strategy) for pool in pools]
        means = [float(np.mean(column)) for column in zip(*rows, strict=True)]
        cells = [f"{100 * means[0]:.0f} %", *(f"{mean:.2f}" for mean in means[1:5])]
        cells += [f"{means[5]:.1f}", f"{round(sum(row[6] for row in rows))} of {len(rows)}"]
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _stated(pool: Pool, strategy: str) -> tuple[float, ...]:
    """The numbers of one pool, in the order of the columns."""
    config = dataclasses.replace(CONFIG, strategy=strategy)
    ranking, _ = replay.rank(pool, pool.names, config, 0.0, frozenset())
    place = {name: i for i, name in enumerate(pool.names)}
    compared = [row.name for row in ranking.models if row.status == "ok"]
    best = max(pool.truth[place[name]] for name in compared)
    held = max(pool.truth[place[name]] for name in ranking.shortlist)
    first = place[ranking.best.name]
    return (
        sum(row.epochs for row in ranking.models) / (CONFIG.epochs * len(pool.models)),
        replay.lost(pool, first),
        replay.lost(pool, replay.finish(pool, ranking)[0]),
        ranking.expected_regret,
        float(best - pool.truth[first]),
        len(ranking.shortlist),
        float(held >= best - config.shortlist_points),
    )


def remarks(pools: Sequence[Pool]) -> str:
    """What a look and a start take, and how far random networks come in a race."""
    looks = [model.features for model in pools[0].models]
    shared = [model.shared for model in pools[0].models]
    furthest = 0
    for pool in pools:
        ranking, _ = replay.rank(pool, pool.names, CONFIG, 0.0, frozenset())
        drawn = [r for r in ranking.models if r.name.startswith(build_long_lists.DECOY)]
        furthest = max(furthest, *(row.epochs for row in drawn))
    starts = [model.start + model.shared for model in pools[0].models]
    race = np.mean([UNLIMITED["race over all"](pool).race for pool in pools])
    return (
        f"A first look takes {np.mean(looks):.1f} s, {np.mean(shared):.1f} of them for loading and "
        f"compiling. A start takes {np.mean(starts):.1f} s; all starts are "
        f"{100 * sum(starts) / race:.0f} % of the race over all. No random network comes beyond "
        f"epoch {furthest}."
    )


def sets_table(pools: Sequence[Pool]) -> str:
    """Points lost set by set, mean over seeds."""
    lines = [f"| set | seeds | {' | '.join(UNLIMITED)} |", "|---" * (2 + len(UNLIMITED)) + "|"]
    columns = [by_set(pools, way) for way in UNLIMITED.values()]
    for i, name in enumerate(dict.fromkeys(pool.name for pool in pools)):
        cells = [f"{np.mean([one.lost for one in column[i]]):.2f}" for column in columns]
        lines.append(f"| {name} | {len(columns[0][i])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    pools = replay.read_pools()
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    for run, found in (("a first", pools), ("a later", replay.read_pools(compiled=True))):
        print(f"### Without a budget, {run} run\n\n{unlimited_table(found)}\n")
        print(f"### Within a budget, {run} run\n\n{budgets_table(found)}\n")
    print(f"### What is foretold\n\n{forecast_table(pools)}\n\n{growth_of_seconds(pools)}\n")
    print(f"### Set by set\n\n{sets_table(pools)}\n")
    print(f"### The race, on new sets\n\n{stated_table(pools)}\n\n{remarks(pools)}")


if __name__ == "__main__":
    app.run(main)
