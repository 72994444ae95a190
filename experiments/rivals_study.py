"""What ranks models before the first epoch, and after a few, beside the rivals that cost nothing?

    python -m experiments.rivals_study

Reads experiments/corpus; takes about a minute. Ordinary fine-tuning at the rate that the product
would take. The checks are those of arXiv 2510.06448: simple rivals beside every signal, weighted τ,
differences of scores against differences of accuracy, each model and each family left out in turn,
and what a perfect predictor would reach. A seed's signals are judged by the mean of the *other*
seeds, which they were not read from; sets with one seed by that seed.

Signals, those before training first:

- parameters: more is better;
- ImageNet accuracy: as published (`PUBLISHED`), of the models that have one;
- static list: mean relative rank of a model on the sets of other sources;
- logme, linear_probe, nearest_neighbours: of the untouched features;
- accuracy, n: the last validation accuracy after n epochs, which is the default;
- accuracy and list, n: both standardised over the pool and added, the list with weight 1/n;
- accuracy and prior, accuracy and features, accuracy and k-NN, n: likewise with what a user has
  instead of such a list: the product's static prior, the mean rank by the three scores of the
  features, or k-NN alone.

Columns:

- τ, weighted τ: mean over sets of means over seeds; τ with a 95 % bootstrap over sets and seeds;
- r: correlation of the differences between models in score and in accuracy at the end;
- models, families out: the lowest and the highest τ with one of them left out;
- lost: points that the model ranked first loses;
- less than the list: points that it loses less than the static list's first, with the standard
  error over sources;
- CPU: of full fine-tuning of all models.

Expected result: experiments/tables/rivals_study.md; what follows: docs/results/rivals.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from absl import app

from experiments.finish_study import interval
from experiments.shortlist_study import HEAD, RATES
from experiments.tasks import POOLS, Task, data_of, family, read_tasks
from ncap_jax.predictor.accuracy_and_loss import standardised
from ncap_jax.predictor.static_prior import static_prior
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.selection.recall import shares_above
from ncap_jax.zoo import MODELS

EPOCHS = (1, 2, 3, 5)
LIST = "static list"
NEIGHBOURS = "nearest_neighbours"
# By what a recall scores features.
FEATURES = ("logme", "linear_probe", NEIGHBOURS)
# Top-1 on ImageNet, per cent: table 6 of arXiv 1704.04861, table 4 of 1801.04381, 1602.07360.
PUBLISHED: Mapping[str, float] = {
    "mobilenet_025": 50.6,
    "mobilenet_025_folded": 50.6,
    "mobilenet_050_folded": 63.7,
    "mobilenet_075": 68.4,
    "mobilenet_075_folded": 68.4,
    "mobilenet_folded": 70.6,
    "mobilenetv2": 72.0,
    "mobilenetv2_folded": 72.0,
    "squeezenet": 57.5,
}
DRAWS = 500  # of the ceiling
MIDDLE = 0.5  # the place of a model of which nothing is published

# A task and all of its pool -> (seeds, models) scores, higher is better; NaN: none.
Signal = Callable[[Task, Sequence[Task]], np.ndarray]


def models(task: Task) -> list[str]:
    """In the order of the columns."""
    return [t.model for t in task.pools[0]]


def every_seed(row: Sequence[float], task: Task) -> np.ndarray:
    """The same for all seeds."""
    return np.tile(np.asarray(row, dtype=np.float64), (len(task.pools), 1))


def static_list(task: Task, pool: Sequence[Task]) -> np.ndarray:
    """Minus the mean relative rank, 0 to 1, on the sets of other sources; -0.5 without any."""
    ranks: dict[str, list[float]] = {}
    for other in pool:
        if data_of(other.name) != data_of(task.name):
            order = np.argsort(np.argsort(-other.truth, kind="stable"))
            for model, rank in zip(models(other), order / (len(order) - 1), strict=True):
                ranks.setdefault(model, []).append(float(rank))
    return every_seed([-float(np.mean(ranks.get(model, [0.5]))) for model in models(task)], task)


def published(task: Task, pool: Sequence[Task]) -> np.ndarray:
    """The accuracy on ImageNet of those that have one."""
    del pool
    return every_seed([PUBLISHED.get(model, np.nan) for model in models(task)], task)


def score(name: str) -> Signal:
    """A transferability score, or the number of parameters; a set may lack a score."""
    return lambda task, pool: task.scores.get(name, every_seed([np.nan] * len(models(task)), task))


def accuracy(epochs: int) -> Signal:
    """The validation accuracy after so many epochs."""
    return lambda task, pool: np.array(
        [[run.records[epochs].validation_accuracy for run in runs] for runs in task.pools]
    )


def prior(task: Task, pool: Sequence[Task]) -> np.ndarray:
    """By the product's static prior, minus the share of models above it; unknown: the middle."""
    del pool
    values = static_prior([MODELS[model] for model in models(task)])
    return every_seed((-np.nan_to_num(shares_above(values), nan=MIDDLE)).tolist(), task)


def features(task: Task, pool: Sequence[Task]) -> np.ndarray:
    """By the mean rank of the untouched features' scores, as a recall has them."""
    del pool
    known = [task.scores[name] for name in FEATURES if name in task.scores]
    return -np.mean([list(map(shares_above, rows)) for rows in known], axis=0)


def combined(other: Signal, epochs: int) -> Signal:
    """The accuracy and what is known before training, whose weight falls with the epochs."""

    def signal(task: Task, pool: Sequence[Task]) -> np.ndarray:
        return standardised(accuracy(epochs)(task, pool)) + standardised(other(task, pool)) / epochs

    return signal


SIGNALS: Mapping[str, Signal] = {
    "parameters": score("parameters"),
    "ImageNet accuracy": published,
    LIST: static_list,
    "logme": score("logme"),
    "linear_probe": score("linear_probe"),
    NEIGHBOURS: score(NEIGHBOURS),
    **{f"accuracy, {n}": accuracy(n) for n in EPOCHS},
    **{f"accuracy and list, {n}": combined(static_list, n) for n in EPOCHS},
    **{f"accuracy and prior, {n}": combined(prior, n) for n in EPOCHS},
    **{f"accuracy and features, {n}": combined(features, n) for n in EPOCHS},
    **{f"accuracy and k-NN, {n}": combined(score(NEIGHBOURS), n) for n in EPOCHS},
}


class Judged(NamedTuple):
    """A signal on one set, (seeds, models); `truths`: what each seed is judged by, likewise."""

    task: Task
    scores: np.ndarray
    truths: np.ndarray

    def mean(self, metric: metrics.Metric, without: Callable[[str], bool] | None = None):
        """(seeds,) the metric, of models that have a score and are not left out."""
        kept = [without is None or not without(model) for model in models(self.task)]
        rows = zip(self.scores[:, kept], self.truths[:, kept], strict=True)
        return np.array([metric(*both) for both in map(_finite, rows)])


def _finite(row: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(row[0])
    return row[0][known], row[1][known]


def judging(task: Task) -> np.ndarray:
    """(seeds, models): the mean of the other seeds' ends; of a single seed its own."""
    seeds = len(task.truths)
    if seeds == 1:
        return task.truths
    return np.array([np.delete(task.truths, seed, axis=0).mean(axis=0) for seed in range(seeds)])


def differences(scores: np.ndarray, truth: np.ndarray) -> float:
    """Correlation of the differences between models, over all ordered pairs; NaN if constant."""
    apart = [np.subtract.outer(values, values).ravel() for values in (scores, truth)]
    return float(np.corrcoef(*apart)[0, 1]) if all(map(np.any, apart)) else float("nan")


def ceiling(task: Task) -> float:
    """τ that the expected accuracies themselves would reach against the other seeds' mean.

    The models' expected accuracies are taken to lie as far apart as the means over seeds do, less
    what the seeds scatter; drawn from that and scattered again, all normal.
    """
    seeds, count = task.truths.shape
    noise = task.truths.var(axis=0, ddof=1).mean()
    apart = max(float(task.truth.var(ddof=1) - noise / seeds), 0.0)
    rng = np.random.default_rng(0)
    expected = np.sqrt(apart) * rng.standard_normal((DRAWS, count))
    seen = expected + np.sqrt(noise / (seeds - 1)) * rng.standard_normal((DRAWS, count))
    return float(np.mean([metrics.kendall_tau(*pair) for pair in zip(expected, seen)]))


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """Points that the first loses."""
    return 100 * metrics.regret(scores, truth)


def left_out(found: Sequence[Judged], group: Callable[[str], str]) -> tuple[float, float]:
    """The lowest and the highest mean τ with one model, or one family, left out."""
    groups = sorted({group(model) for one in found for model in models(one.task)})
    taus = []
    for name in groups:
        out = partial(_is_of, group, name)
        rows = [one.mean(metrics.kendall_tau, out) for one in found]
        taus.append(float(np.nanmean([np.nanmean(row) for row in rows])))
    return min(taus), max(taus)


def _is_of(group: Callable[[str], str], name: str, model: str) -> bool:
    return group(model) == name


def by_source(found: Sequence[Judged], values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean over sets, and its standard error with the sources as what was drawn."""
    means: dict[str, list[float]] = {}
    for one, row in zip(found, values, strict=True):
        means.setdefault(data_of(one.task.name), []).append(float(np.mean(row)))
    rows = np.array([np.mean(each) for each in means.values()])
    overall = float(np.mean([np.mean(row) for row in values]))
    return overall, float(rows.std(ddof=1) / np.sqrt(len(rows)))


def price(name: str, found: Sequence[Judged]) -> str:
    """CPU seconds, as a share of full fine-tuning; nothing is counted before the first epoch."""
    if not name.startswith("accuracy"):
        return "0 %" if name in ("parameters", "ImageNet accuracy", LIST) else "features"
    epochs = int(name.rpartition(" ")[2])
    tasks = [one.task for one in found]
    runs = [run for task in tasks for pool in task.pools for run in pool]
    spent = sum(r.seconds for run in runs for r in run.records[: epochs + 1])
    return f"{100 * spent / sum(float(task.costs.sum()) for task in tasks):.0f} %"


def line(name: str, found: Sequence[Judged], listed: Sequence[Judged]) -> str:
    """One signal over some sets."""
    taus = [one.mean(metrics.kendall_tau) for one in found]
    weighted, r = (
        np.nanmean([np.nanmean(one.mean(metric)) for one in found])
        for metric in (metrics.weighted_tau, differences)
    )
    out = [" to ".join(f"{tau:.2f}" for tau in left_out(found, by)) for by in (str, family)]
    lost = [one.mean(regret) for one in found]
    names = [one.task.name for one in found]
    rival = [one.mean(regret) for one in listed if one.task.name in names]
    saved = [theirs - mine for theirs, mine in zip(rival, lost, strict=True)]
    gain, error = by_source(found, saved)
    than = "" if name == LIST else f"{gain:.2f} ± {error:.2f}"
    cells = [interval(taus), f"{weighted:.2f}", f"{r:.2f}", *out]
    cells += [f"{np.mean([row.mean() for row in lost]):.2f}", than, price(name, found)]
    return f"| {name} | {' | '.join(cells)} |"


def judge_all(tasks: Sequence[Task], pool: str) -> dict[str, list[Judged]]:
    """Every signal on the sets of a pool; one that no model has is left out."""
    found = {
        name: [Judged(task, signal(task, tasks), judging(task)) for task in tasks]
        for name, signal in SIGNALS.items()
    }
    found = {
        name: [one for one in rows if np.isfinite(one.scores).any()] for name, rows in found.items()
    }
    if pool == "embedded":
        del found["ImageNet accuracy"]  # they have not seen it
    return found


def table(found: Mapping[str, Sequence[Judged]]) -> str:
    """All signals over one pool."""
    lines = [
        "| signal | τ | weighted τ | r | τ, models out | τ, families out | lost "
        "| less than the list | CPU |",
        "|---" * 9 + "|",
    ]
    lines += [line(name, rows, found[LIST]) for name, rows in found.items()]
    return "\n".join(lines)


def sets_rows(found: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    """Set by set: what a perfect predictor would reach, and who wins."""
    for i, one in enumerate(found[LIST]):
        task = one.task
        best = models(task)[int(np.argmax(task.truth))]
        names = (LIST, "accuracy, 1", "accuracy, 5")
        taus = [np.nanmean(found[name][i].mean(metrics.kendall_tau)) for name in names]
        reached = f"{ceiling(task):.2f}" if len(task.truths) > 1 else ""
        cells = [str(len(task.truths)), reached, *(f"{tau:.2f}" for tau in taus), best]
        yield f"| {task.name} | {' | '.join(cells)} |"


def sets_table(pools: Sequence[Mapping[str, Sequence[Judged]]]) -> str:
    """All sets."""
    lines = [
        "| set | seeds | τ of a perfect predictor | static list | accuracy, 1 | accuracy, 5 "
        "| best |",
        "|---" * 7 + "|",
        *(row for found in pools for row in sets_rows(found)),
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    pools = []
    for pool in POOLS:
        tasks = read_tasks(HEAD, pool, RATES[pool], large=True)
        pools.append(judge_all(tasks, pool))
        print(f"### {pool.capitalize()}: {len(tasks)} sets\n\n{table(pools[-1])}\n")
    print(f"### Set by set\n\n{sets_table(pools)}")


if __name__ == "__main__":
    app.run(main)
