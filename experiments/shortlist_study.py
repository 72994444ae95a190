"""Do expected regret, P(within) and the shortlist keep what they state?

    python -m experiments.shortlist_study

Reads experiments/corpus; takes about a minute. Each set and seed is ranked after n epochs of
ordinary fine-tuning by the product's default; the constants of growth come from the other sets
(`experiments.tasks.growth_priors`). The truth is the accuracy at the end of full fine-tuning, mean
over seeds.

Columns, means over sets of means over seeds:

- covered: pools whose shortlist holds a model within a point of the best (stated: 90 %);
- size: models on the shortlist;
- regret stated, lost: what the first model is expected to cost, and what it costs, points;
- r: correlation of the two over all pools, and over the sets' means over seeds, which have less of
  the luck of a single run;
- within stated, true: chance that the first model is within a point, and how often it is;
- 95 %: models whose lead over the pool lies in its stated interval, by Student's t (G2).

The second table has the differences of the stated and the true regret, with 95 % bootstraps over
sets, and over seeds in each. The third has the first four rows again, if accuracies are drawn as
normals instead of Beta variables; the fourth has covered and size over all sets, if a shortlist
covers other shares of the samples. The fifth has covered and the difference of stated and true
regret, if the normals have the scale or the standard deviation of the growth law instead of its
quartiles, and if the climb that is still ahead (G2) is the same for all models, or plays no part
in how leads shrink. The sixth has the
accuracies themselves, as every report states them: the share of models that end within 1.96
standard deviations of what is predicted, mean over seeds and then over sets, with a bootstrap over
both; the sets with less than 90 %; and the mean standard deviation in points.
The seventh has the same without the last term of (G4), and the eighth with a law of growth that
does not look at the losses: ρ of (G1) is 1. The last has the two sets that lose most, stated and
true, and what is stated minus what is lost on all others.

Expected result: experiments/tables/shortlist_study.md; what follows: docs/results/shortlist.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple
from unittest import mock

import numpy as np
from absl import app
from scipy.stats import t as student

from experiments.finish_study import interval
from experiments.tasks import POOLS, Rate, Task, data_of, priors_without_each, read_tasks
from ncap_jax import predictor as predictors
from ncap_jax.options import Head
from ncap_jax.predictor import growth
from ncap_jax.run import facts
from ncap_jax.selection import contest, metrics, shortlist
from ncap_jax.types import Prediction

HEAD: Head = "linear"
EPOCHS = (1, 2, 3, 5)
POINTS = 1.0
# Of the samples, for the last table.
SHARES = (0.85, 0.90, 0.95)
# Of an outcome: what is stated and what comes true.
SAID = ("stated", "lost")
# Of the standardised error that (G2) supposes, both sides of 95 %, in stated spreads.
QUANTILE = float(student.ppf(0.975, growth.FREEDOM)) / growth.QUARTILES
# A pool has the learning rates that the product would take: those known from other sets.
RATES: Mapping[str, Rate] = {"embedded": "high", "genuine": "known"}


class Outcome(NamedTuple):
    """One pool after n epochs: what was stated, and what came true; regrets in points."""

    covered: float
    size: float
    stated: float
    lost: float
    within: float
    was_within: float
    inside: float


def outcome(predictions: Sequence[Prediction], truth: np.ndarray, seed: int) -> Outcome:
    """Judge one pool's predictions by the truth, (models,)."""
    order = np.argsort([-p.mean for p in predictions], kind="stable")
    ranked, ends = [predictions[i] for i in order], 100 * truth[order]
    found = shortlist.outlook(ranked, POINTS, seed)
    good = ends >= ends.max() - POINTS
    means = 100 * np.array([p.mean for p in ranked])
    spreads = 100 * np.array([p.spread for p in ranked])
    apart = np.abs((ends - ends.mean()) - (means - means.mean()))
    return Outcome(
        float(good[list(found.shortlist)].any()),
        len(found.shortlist),
        found.expected_regret,
        float(ends.max() - ends[0]),
        float(found.within[0]),
        float(good[0]),
        float(np.mean(apart <= QUANTILE * spreads)),
    )


def outcomes(task: Task, epochs: int, priors: growth.Priors) -> Iterator[Outcome]:
    """Of every seed whose predictions state a distribution."""
    method = predictors.get("default", HEAD)
    for seed, pool in enumerate(task.pools):
        answers = predictors.accuracies(method, pool, epochs, priors=priors)
        if all(map(contest.has_distribution, answers)):
            yield outcome(answers, task.truth, seed)


Found = dict[str, list[Outcome]]
Priors = Mapping[str, growth.Priors]  # by the source that is left out
HEADER = [
    "| pool, epochs | covered | size | regret stated | lost | r | r, sets | within stated | true "
    "| 95 % |",
    "|---" * 10 + "|",
]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """NaN where one of the two does not vary, or has no more than two values."""
    if one.size < 3 or not np.ptp(one) or not np.ptp(other):
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def row(found: Sequence[Sequence[Outcome]], name: str) -> str:
    """One line of the table over some sets."""
    sets = np.array([np.mean(rows, axis=0) for rows in found])
    means = sets.mean(axis=0)
    every = np.array([one for rows in found for one in rows])
    agree = [correlation(table[:, 2], table[:, 3]) for table in (every, sets)]
    cells = [
        f"{100 * means[0]:.0f} %",
        f"{means[1]:.1f}",
        *(f"{value:.2f}" for value in (means[2], means[3])),
        *(f"{r:.2f}" if np.isfinite(r) else "" for r in agree),
        *(f"{100 * value:.0f} %" for value in means[4:]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def table(tasks: Sequence[Task], priors: Priors) -> str:
    """All epochs and pools, then the sets after three epochs."""
    lines = HEADER[:]
    found = {
        n: {t.name: list(outcomes(t, n, priors[data_of(t.name)])) for t in tasks} for n in EPOCHS
    }
    for pool in ("", *POOLS):
        for n in EPOCHS:
            inside = [rows for name, rows in found[n].items() if name.endswith(pool) and rows]
            lines.append(row(inside, f"{pool or 'all'}, {n}"))
    lines += [row([rows], f"{name}, 3") for name, rows in found[3].items() if rows]
    return "\n".join(lines)


def all_outcomes(tasks: Sequence[Task], epochs: int, priors: Priors) -> list[list[Outcome]]:
    """Of every set that has some, a row of seeds each."""
    found = [list(outcomes(task, epochs, priors[data_of(task.name)])) for task in tasks]
    return [rows for rows in found if rows]


def mean_outcome(tasks: Sequence[Task], epochs: int, priors: Priors) -> Outcome:
    """Mean over sets of means over seeds."""
    found = all_outcomes(tasks, epochs, priors)
    return Outcome(*np.mean([np.mean(rows, axis=0) for rows in found], axis=0).tolist())


def differences(tasks: Sequence[Task], priors: Priors) -> str:
    """By how much more is stated than lost, over all sets."""
    lines = ["| epochs | stated | lost | stated - lost |", "|---" * 4 + "|"]
    for n in EPOCHS:
        found = all_outcomes(tasks, n, priors)
        values = [[np.array([getattr(o, w) for o in rows]) for rows in found] for w in SAID]
        more = [stated - lost for stated, lost in zip(*values, strict=True)]
        cells = map(interval, (*values, more))
        lines.append(f"| {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def losing_most(tasks: Sequence[Task], priors: Priors, sets: int = 2) -> str:
    """The sets that weigh most in the mean, and the difference without them."""
    lines = ["| epochs | sets that lose most: stated, lost | the others |", "|---" * 3 + "|"]
    for n in EPOCHS:
        means = {
            task.name: np.mean(rows, axis=0)[[2, 3]]
            for task in tasks
            if (rows := list(outcomes(task, n, priors[data_of(task.name)])))
        }
        order = sorted(means, key=lambda name: -means[name][1])
        most = "; ".join(f"{k} {means[k][0]:.2f}, {means[k][1]:.2f}" for k in order[:sets])
        others = np.mean([means[name] for name in order[sets:]], axis=0)
        lines.append(f"| {n} | {most} | {others[0] - others[1]:+.2f} |")
    return "\n".join(lines)


def normals(predictions: Sequence[Prediction], seed: int | Sequence[int]) -> np.ndarray:
    """As `ncap_jax.selection.contest.samples`, of normals, which may lie beyond 0 and 1."""
    mean, spread = (
        np.array([getattr(p, name) for p in predictions]) for name in ("mean", "spread")
    )
    size = (contest.DRAWS, mean.size)
    return mean + spread * np.random.default_rng(seed).standard_normal(size)


def as_normals(tasks: Sequence[Task], priors: Priors) -> str:
    """The rows over all sets, of normal samples."""
    lines = HEADER[:]
    with mock.patch.object(contest, "samples", normals):
        for n in EPOCHS:
            lines.append(row(all_outcomes(tasks, n, priors), f"all, {n}, normals"))
    return "\n".join(lines)


def by_share(tasks: Sequence[Task], priors: Priors) -> str:
    """How often shortlists hold that cover other shares of the samples, and their sizes."""
    lines = [
        f"| samples covered | {' | '.join(map(str, EPOCHS))} |",
        "|---" * (1 + len(EPOCHS)) + "|",
    ]
    cover = shortlist.smallest_cover
    for share in SHARES:
        with mock.patch.object(shortlist, "smallest_cover", partial(cover, covered=share)):
            means = [mean_outcome(tasks, n, priors) for n in EPOCHS]
            cells = [f"{100 * mean.covered:.0f} %, {mean.size:.1f}" for mean in means]
            lines.append(f"| {100 * share:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_width(tasks: Sequence[Task], priors: Priors) -> str:
    """How often shortlists hold, and by how much more is stated than lost, for other normals."""
    lines = [
        f"| own_std / own | {' | '.join(map(str, EPOCHS))} |",
        "|---" * (1 + len(EPOCHS)) + "|",
    ]
    for width in (1.0, growth.QUARTILES, growth.HEAVY):
        with mock.patch.object(growth, "QUARTILES", width):
            lines.append(_by_width_row(f"{width:.2f}", tasks, priors))
    return "\n".join(lines)


def _by_width_row(name: str, tasks: Sequence[Task], priors: Priors) -> str:
    means = [mean_outcome(tasks, n, priors) for n in EPOCHS]
    cells = [f"{100 * m.covered:.0f} %, {m.stated - m.lost:+.2f}" for m in means]
    return f"| {name} | {' | '.join(cells)} |"


def alike(rise: float, leads: np.ndarray) -> np.ndarray:
    """As `growth.own_rises`: of every model the rise of the pool."""
    return np.full(leads.size, rise)


def by_gain_alone(gain: float, rise: float) -> float:
    """As `growth.drawing_in`: however much of the climb is ahead."""
    del rise
    return float(np.sqrt(gain))


# Name -> function of the growth law that is replaced, and by what.
OTHER_LAWS: Mapping[str, tuple[str, Callable]] = {
    "one u": ("own_rises", alike),
    "√gain": ("drawing_in", by_gain_alone),
}


def with_other_law(name: str, tasks: Sequence[Task]) -> str:
    """A row as of `by_width`."""
    with mock.patch.object(growth, *OTHER_LAWS[name]):
        priors = priors_without_each(task.name for task in tasks)
        return _by_width_row(f"{growth.QUARTILES:.2f}, {name}", tasks, priors)


def accuracy_intervals(tasks: Sequence[Task], priors: Priors) -> str:
    """How often accuracies end inside their 95 % interval, each source left out in turn."""
    places = (*POOLS, "birds525_genuine")
    lines = [
        f"| epochs | {' | '.join(places)} | less than 90 % | points |",
        "|---" * (3 + len(places)) + "|",
    ]
    method = predictors.get("default", HEAD)
    for n in EPOCHS:
        inside, points = {}, []
        for task in tasks:
            prior = priors[data_of(task.name)]
            found = [predictors.accuracies(method, p, n, priors=prior) for p in task.pools]
            shares = [metrics.coverage(answers, task.truth.tolist()) for answers in found]
            inside[task.name] = np.array(shares)
            points.append(100 * float(np.mean([a.std for answers in found for a in answers])))
        cells = [interval([v for k, v in inside.items() if k.endswith(place)]) for place in places]
        few = {name: float(v.mean()) for name, v in inside.items() if v.mean() < 0.9}
        named = ", ".join(f"{name} {share:.2f}" for name, share in few.items()) or "none"
        lines.append(f"| {n} | {' | '.join(cells)} | {named} | {np.mean(points):.1f} |")
    return "\n".join(lines)


def without_losses() -> AbstractContextManager:
    """A law of growth whose (G1) has no ρ."""
    return mock.patch.object(growth, "pace", lambda slope, gap: max(0.0, slope))


def foreseen(priors: growth.Priors) -> growth.Priors:
    """The constants as if (G1) missed by a share of the gain alone."""
    return {head: prior._replace(unforeseen=0.0) for head, prior in priors.items()}


def main(argv: list[str]) -> None:
    """Print the table."""
    del argv
    tasks = [task for pool in POOLS for task in read_tasks(HEAD, pool, RATES[pool], large=True)]
    priors = priors_without_each(task.name for task in tasks)
    print(f"{json.dumps(facts.describe(), default=str)}\n\n{table(tasks, priors)}\n")
    print(f"{differences(tasks, priors)}\n\n{as_normals(tasks, priors)}\n")
    print(f"{by_share(tasks, priors)}\n\n{by_width(tasks, priors)}")
    print("\n".join(with_other_law(name, tasks) for name in OTHER_LAWS), end="\n\n")
    print(f"{accuracy_intervals(tasks, priors)}\n")
    print(accuracy_intervals(tasks, {name: foreseen(known) for name, known in priors.items()}))
    with without_losses():
        print(f"\n{accuracy_intervals(tasks, priors_without_each(t.name for t in tasks))}")
    print(f"\n{losing_most(tasks, priors)}")


if __name__ == "__main__":
    app.run(main)
