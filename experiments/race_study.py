"""What does a race save, and what does it cost?

    python -m experiments.race_study

Reads experiments/corpus; takes about two minutes. Each set and seed is replayed
(`experiments.finish_replay`): everybody has an epoch, models are stopped by a rule, those left run
to the fifth epoch and are ranked. Rules: the race of the product (`ncap_jax.selection.race`), other
schedules, and halving. What rules and predictions read (learning rates, the constants of growth)
comes from the other sets.

Columns:

- epochs: of those of all models running five epochs;
- CPU, cold and warm: likewise of the seconds; cold with compilation, warm with every epoch at the
  price of a later one;
- left: models that run to the fifth epoch;
- lost: points that the model ranked first loses against the best, by full fine-tuning, mean over
  seeds; when two are finished: likewise of the better of the first two by validation at the end;
- more than full: the difference to the same without a race.

Intervals are 95 % bootstraps over sets, and over seeds in each. The last table compares what is
stated of those that ran to the end, the fifth epoch or an earlier one, with what comes true among
them, with and without (A2) of `ncap_jax.predictor.common_scale`.

Expected result: experiments/tables/race_study.md; what follows: docs/results/race.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple
from unittest import mock

import numpy as np
from absl import app

from experiments import finish_replay as replay
from experiments import finish_study as study
from experiments import shortlist_study
from experiments.finish_replay import Recorded, Way
from experiments.tasks import POOLS, data_of, priors_without_each
from ncap_jax import predictor as predictors
from ncap_jax.predictor import common_scale
from ncap_jax.predictor.base import truncate
from ncap_jax.run import facts
from ncap_jax.selection import race
from ncap_jax.types import Trajectory


def schedule(*cuts: str, margin: float = 1.0) -> Way:
    """A race with shares such as `1/2`, after epochs 1, 2, ..., and a margin in standard errors."""
    shares = {i: Fraction(cut) for i, cut in enumerate(cuts, start=1)}
    return dataclasses.replace(study.PRODUCT, strategy="race", shares=shares, margin=margin)


WAYS: Mapping[str, Way] = {
    "full": study.PRODUCT,
    "race: the product's": dataclasses.replace(study.PRODUCT, strategy="race"),
    "race, margin 1/2": schedule("1/2", "1/3", "1/4", "1/5", margin=0.5),
    "race, margin 3/2": schedule("1/2", "1/3", "1/4", "1/5", margin=1.5),
    "race without a margin": schedule("1/2", "1/3", "1/4", "1/5", margin=0.0),
    "race: 1/2, 1/3, 1/4": schedule("1/2", "1/3", "1/4"),
    "race: 2/3, 1/2, 1/3, 1/4": schedule("2/3", "1/2", "1/3", "1/4"),
    "race: 2/3, 1/2, 1/3": schedule("2/3", "1/2", "1/3"),
    "the same without a margin": schedule("2/3", "1/2", "1/3", margin=0.0),
    "one epoch, keep half": schedule("1/2", margin=0.0),
    "one epoch, keep a third": schedule("1/3", margin=0.0),
    "halving": dataclasses.replace(study.PRODUCT, strategy="halving"),
    "halving, threshold 0.2": dataclasses.replace(study.PRODUCT, strategy="halving", threshold=0.2),
}


def shorter(epochs: int) -> Way:
    """The product's race in a run of fewer epochs."""
    shares = {rung: share for rung, share in race.SHARES.items() if rung < epochs}
    return dataclasses.replace(study.PRODUCT, strategy="race", epochs=epochs, shares=shares)


# Rules after which what is stated of the finalists is compared with what comes true.
STATED: Mapping[str, Way] = {
    "full": WAYS["full"],
    **{f"race: the product's, {n} epochs": shorter(n) for n in (2, 3, 4)},
    "race: the product's": WAYS["race: the product's"],
    "halving": WAYS["halving"],
}


class Outcome(NamedTuple):
    """One seed's pool under a rule, in the order of the columns; `lost` and `two` are points."""

    epochs: float
    cold: float
    warm: float
    left: float
    lost: float
    two: float


def outcome(way: Way, runs: Recorded, seed: int, priors) -> Outcome:
    """Replay one seed's pool."""
    early = [truncate(run, way.epochs) for run in runs.early[way.rate][seed]]
    ends = replay.stop_early(early, way, priors)
    order = replay.ranked(early, ends, way)
    two = max(
        (replay.finish(way, runs, seed, model) for model in order[:2]), key=lambda one: one.value
    )
    one = np.eye(len(early))
    return Outcome(
        epochs=float(np.mean(ends)) / way.epochs,
        cold=share(early, ends, recorded_seconds),
        warm=share(early, ends, later_seconds),
        left=float(np.sum(np.array(ends) == way.epochs)),
        lost=study.lost(runs, seed, one[order[0]])[0],
        two=study.lost(runs, seed, one[two.model])[0],
    )


def recorded_seconds(run: Trajectory) -> list[float]:
    """CPU seconds of epochs 0, 1, ..., compilation included."""
    return [record.seconds for record in run.records]


def later_seconds(run: Trajectory) -> list[float]:
    """Every epoch of training at the price of a later one, which compiles nothing."""
    return [float(np.median(recorded_seconds(run)[2:]))] * len(run.records)


def share(early: Sequence[Trajectory], ends: Sequence[int], prices) -> float:
    """Seconds up to the ends, of all."""
    paid = [prices(run) for run in early]
    return sum(sum(p[: end + 1]) for p, end in zip(paid, ends)) / sum(map(sum, paid))


def finalists(way: Way, runs: Recorded, seed: int, priors) -> shortlist_study.Outcome:
    """What is stated of the models that ran to the end, and what came true among them."""
    early = [truncate(run, way.epochs) for run in runs.early[way.rate][seed]]
    ends = replay.stop_early(early, way, priors)
    raced = [truncate(run, end) for run, end in zip(early, ends, strict=True)]
    method = predictors.get("default", shortlist_study.HEAD)
    answers = common_scale.accuracies(method, raced, priors)
    left = [i for i, end in enumerate(ends) if end == way.epochs]
    truth = runs.truths.mean(axis=0)[left]
    return shortlist_study.outcome([answers[i] for i in left], truth, seed)


def finalists_row(name: str, way: Way, sets: Sequence[Recorded], priors: study.Priors) -> str:
    """The columns of `experiments.shortlist_study`, of those that ran to the end."""
    found = [
        [finalists(way, runs, seed, priors[data_of(runs.name)]) for seed in range(len(runs.lines))]
        for runs in sets
    ]
    return shortlist_study.row(found, name)


def finalists_table(sets: Sequence[Recorded], priors: study.Priors) -> str:
    """All of `STATED`, then the races without (A2)."""
    lines = [finalists_row(name, way, sets, priors) for name, way in STATED.items()]
    with mock.patch.object(common_scale, "narrowing", return_value=1.0):
        lines += [
            finalists_row(f"{name}, without (A2)", way, sets, priors)
            for name, way in STATED.items()
            if way.strategy == "race"
        ]
    return "\n".join([*shortlist_study.HEADER, *lines])


Results = list[list[Outcome]]


def replay_all(way: Way, sets: Sequence[Recorded], priors: study.Priors) -> Results:
    """(sets, seeds)"""
    return [
        [outcome(way, runs, seed, priors[data_of(runs.name)]) for seed in range(len(runs.lines))]
        for runs in sets
    ]


def column(results: Results, name: str) -> list[np.ndarray]:
    """One column, a row of seeds for each set."""
    return [np.array([getattr(one, name) for one in rows]) for rows in results]


def table(found: Mapping[str, Results], inside: Sequence[int]) -> str:
    """All rules over some of the sets."""
    lines = [
        "| rule | epochs | CPU, cold | CPU, warm | left | lost by the first | more than full "
        "| lost when two are finished | more than full |",
        "|---" * 9 + "|",
    ]
    full = [found["full"][i] for i in inside]
    for name, results in found.items():
        mine = [results[i] for i in inside]
        cells = [study.percent(column(mine, part)) for part in ("epochs", "cold", "warm")]
        cells.append(f"{np.mean([left.mean() for left in column(mine, 'left')]):.1f}")
        for part in ("lost", "two"):
            ours = column(mine, part)
            more = [a - b for a, b in zip(ours, column(full, part))]
            cells.append(f"{np.mean([points.mean() for points in ours]):.2f}")
            cells.append(study.interval(more) if any(map(np.any, more)) else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sets_table(found: Mapping[str, Results], names: Sequence[str]) -> str:
    """Points lost by the first, set by set, with and without the race, and the race's epochs."""
    ways = list(WAYS)[:2]
    lines = [
        "| set | " + " | ".join(f"{way}: first; two" for way in ways) + " | its epochs |",
        "|---" * 4 + "|",
    ]
    for i, name in enumerate(names):
        cells = [
            "; ".join(f"{column([found[way][i]], part)[0].mean():.2f}" for part in ("lost", "two"))
            for way in ways
        ]
        cells.append(study.percent([column(found[ways[1]], "epochs")[i]]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    sets = [runs for pool in POOLS for runs in replay.read_pool(pool, large=True)]
    priors = priors_without_each(runs.name for runs in sets)
    names = [runs.name for runs in sets]
    found = {name: replay_all(way, sets, priors) for name, way in WAYS.items()}
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    for title, pool in (("All sets", ""), ("Embedded", "embedded"), ("Published", "genuine")):
        inside = [i for i, name in enumerate(names) if name.endswith(pool)]
        print(f"### {title}: {len(inside)}\n\n{table(found, inside)}\n")
    print(f"### Set by set\n\n{sets_table(found, names)}\n")
    print(f"### What is stated of those that ran to the end\n\n{finalists_table(sets, priors)}")


if __name__ == "__main__":
    app.run(main)
