"""Which early signal ranks models as ordinary full fine-tuning does? The table over the corpus.

    python -m experiments.compare_predictors            print the tables
    python -m experiments.compare_predictors --figures  also draw docs/*.svg
    python -m experiments.compare_predictors --pool=genuine
                                                        published weights instead of the embedded

Reads experiments/corpus (`experiments.build_corpus` makes it); takes minutes. Truth: validation
accuracy at the end of ordinary fine-tuning (the better of two learning rates), mean over seeds.
A method sees the first n epochs of one seed's runs under one head. What learns from finished runs
is never scored on them: `baker_svr` learns from the other models of the same set (leave one model
out), `joint_*` from other models on other sets (leave one set and one family out, because
`tiny_plain` and `tiny_plain_deep` are relatives), and predicted accuracies take growth from
finished runs on other sets. Weights are always learned from the embedded pool, growth
from both.

Expected result: experiments/tables/compare_predictors_embedded.md and _genuine.md; what follows:
docs/results/early-signals.md and docs/results/published-weights.md.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from scipy.stats import norm

from experiments import comparison_figures
from experiments.tasks import (
    POOLS,
    Method,
    Predictions,
    Task,
    data_of,
    growth_priors,
    methods,
    priors_without_each,
    rate_of,
    read_tasks,
)
from ncap_jax import predictor as predictors
from ncap_jax.options import HEADS, Head
from ncap_jax.predictor import PREDICTORS, growth
from ncap_jax.predictor.base import Predictor
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.zoo import MODELS

FLAGS = flags.FLAGS

# Bootstrap samples of every interval.
DRAWS = 300


# ---- scores of a method -------------------------------------------------------------------------


# The methods in the figure of τ against cost.
SHOWN = (
    "last_seen",
    "last_validation_loss",
    "last_training_loss",
    "published_ridge",
    "last_beta_eff",
    "capacitance",
    "joint_curve_beta_eff",
)


# Data set -> what finished runs on the others say of growth.
Priors = Mapping[str, growth.Priors]


class Cell(NamedTuple):
    """A method after n epochs, over all tasks: τ with its interval, regret@1, error, coverage."""

    tau: metrics.Interval
    regret: float
    error: float
    covered: float


def evaluate(
    method: Method, tasks: Sequence[Task], epochs: int, priors: Priors, known: Sequence[Task]
) -> Cell:
    """One cell of the table: means over sets and seeds, bootstrap over models and seeds.

    `known`: the tasks from which a method may learn, apart from the set that is scored.
    """
    pairs, regrets, misses, covered = [], [], [], []
    for this in tasks:
        others = [other for other in known if data_of(other.name) != data_of(this.name)]
        predictor, found = method(this, others, epochs)
        values = means(found)
        pairs.append((values, this.truth))
        regrets.append(np.mean([metrics.regret(row, this.truth) for row in values]))
        accuracies = found
        if predictor is not None:
            prior = priors[data_of(this.name)]
            accuracies = [
                predictors.accuracies(predictor, pool, epochs, scores=scores, priors=prior)
                for pool, scores in zip(this.pools, found, strict=True)
            ]
        misses.append(np.nanmean(np.abs(means(accuracies) - this.truth)))
        flat = [p for row in accuracies for p in row]
        truth = np.tile(this.truth, len(this.pools))
        covered.append(metrics.coverage(flat, truth.tolist(), 0.95))
    return Cell(
        over_tasks(metrics.kendall_tau, pairs),
        float(np.mean(regrets)),
        float(np.mean(misses)),
        float(np.nanmean(covered)) if np.isfinite(covered).any() else float("nan"),
    )


def means(predictions: Predictions) -> np.ndarray:
    """(seeds, models)."""
    return np.array([[p.mean for p in row] for row in predictions])


def over_tasks(
    metric: metrics.Metric, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> metrics.Interval:
    """Mean over tasks; the interval from bootstraps over models and seeds of each task."""
    found = [metrics.bootstrap(metric, values, truth, DRAWS) for values, truth in pairs]
    value = float(np.mean([f for f, _ in found]))
    return metrics.interval(value, np.mean([samples for _, samples in found], axis=0))


# ---- what is printed ----------------------------------------------------------------------------


def truth_table(tasks: Sequence[Task]) -> str:
    """The truths, how far they agree from seed to seed, and with the end of the frozen probe."""
    lines = [
        "| set | models × seeds | best | median | worst | τ of one seed with the others "
        "| τ with the frozen probe's end |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        taus = [
            metrics.kendall_tau(task.truths[s], np.delete(task.truths, s, axis=0).mean(axis=0))
            for s in range(len(task.truths))
            if len(task.truths) > 1
        ]
        top, middle, low = (100 * f(task.truth) for f in (np.max, np.median, np.min))
        lines.append(
            f"| {task.name} | {task.truth.size} × {len(task.pools)} | {top:.1f} | {middle:.1f} "
            f"| {low:.1f} | {f'{np.mean(taus):.2f}' if len(task.truths) > 1 else ''} "
            f"| {metrics.kendall_tau(task.probe_ends, task.truth):.2f} |"
        )
    return "\n".join(lines)


Table = dict[str, list[Cell | None]]


def cells(head: Head, tasks: Sequence[Task], priors: Priors) -> Table:
    """Every method after each of the recorded early epochs; None where it needs more."""
    needs = {name: predictor.min_epochs for name, predictor in PREDICTORS.items()}
    known = read_tasks(head)
    return {
        name: [
            evaluate(method, tasks, n, priors, known) if n >= needs.get(name, 1) else None
            for n in tasks[0].early
        ]
        for name, method in methods(head).items()
    }


def print_table(table: Table, early: Sequence[int]) -> None:
    """Method × n: τ [interval]; regret@1; error; coverage."""
    print("| method | " + " | ".join(f"n={n}" for n in early) + " |")
    print("|---|" + "---|" * len(early))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join("" if c is None else words(c) for c in row) + " |")


def score_table(tasks: Sequence[Task]) -> str:
    """The transferability scores, which see no epoch of fine-tuning."""
    lines = ["| score | τ | regret@1 |", "|---|---|---|"]
    for name in sorted(set.intersection(*(set(t.scores) for t in tasks))):
        pairs = [(t.scores[name], t.truth) for t in tasks]
        tau = over_tasks(metrics.kendall_tau, pairs)
        regret = np.mean([metrics.regret(row, truth) for rows, truth in pairs for row in rows])
        lines.append(f"| {name} | {interval(tau)} | {100 * regret:.1f} |")
    return "\n".join(lines)


def architecture_table(tasks: Sequence[Task]) -> str:
    """τ of what architecture alone says, and of the probe's absolute β_eff before and after it."""
    lines = [
        "| set | parameters | narrow features | β_eff before training | after 2 epochs "
        "| after 2 epochs, log width regressed out |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        width = np.log([MODELS[t.model].feature_width or np.nan for t in task.pools[0]])
        level = np.array(
            [[-np.log(t.beta_eff("absolute")) for t in pool] for pool in task.pools]
        )  # (seeds, models, epochs + 1)
        after = level[:, :, 2]
        rest = [row - np.polyval(np.polyfit(width, row, 1), width) for row in after]
        found = [task.scores["parameters"], -width[None], level[:, :, 0], after, np.array(rest)]
        taus = [np.mean([metrics.kendall_tau(row, task.truth) for row in rows]) for rows in found]
        lines.append(f"| {task.name} | " + " | ".join(f"{tau:.2f}" for tau in taus) + " |")
    return "\n".join(lines)


def growth_table(priors: Priors) -> str:
    """The constants of the growth law without each set, and from all of them: those shipped."""
    lines = ["| head | left out | c | r | own | k | q | w |", "|---" * 8 + "|"]
    for head in HEADS:
        for name, known in {**priors, "none": growth_priors()}.items():
            numbers = " | ".join(f"{number:.2f}" for number in known[head])
            lines.append(f"| {head} | {name} | {numbers} |")
    return "\n".join(lines)


def pairs(predictor: Predictor, tasks: Sequence[Task], epochs: int, priors: Priors) -> list[float]:
    """Over all pairs of models of a pool: mean stated chance of the order, and share that is right.

    The stated chance is that of independent normals N(mean, own_std²), as in P(best).
    """
    said, right = [], []
    for task in tasks:
        for pool in task.pools:
            prior = priors[data_of(task.name)]
            answers = predictors.accuracies(predictor, pool, epochs, priors=prior)
            for (a, end), (b, other) in itertools.combinations(zip(answers, task.truth), 2):
                chance = norm.cdf((a.mean - b.mean) / np.hypot(a.own_std, b.own_std))
                if np.isfinite(chance) and end != other:
                    said.append(max(chance, 1 - chance))
                    right.append((chance > 0.5) == (end > other))
    return [float(np.mean(said)), float(np.mean(right))]


def pairs_table(priors: Priors, pool: str) -> str:
    """Do the stated chances hold? Default predictors, pairs of models."""
    early = read_tasks("linear", pool)[0].early
    lines = ["| head | " + " | ".join(f"n={n}" for n in early) + " |"]
    lines.append("|---" * (len(early) + 1) + "|")
    for head in HEADS:
        chosen, tasks = predictors.get("default", head), read_tasks(head, pool, rate_of(pool))
        found = [pairs(chosen, tasks, n, priors) for n in early]
        cells = " | ".join(f"{100 * said:.0f} %, {100 * right:.0f} %" for said, right in found)
        lines.append(f"| {head}: {chosen.name} | {cells} |")
    return "\n".join(lines)


def words(cell: Cell) -> str:
    """One cell for people: errors and regret in points of accuracy."""
    covered = "" if np.isnan(cell.covered) else f"; {100 * cell.covered:.0f} %"
    return f"{interval(cell.tau)}; {100 * cell.regret:.1f}; {100 * cell.error:.0f}{covered}"


def interval(found: metrics.Interval) -> str:
    """A value with its 95 % interval, two decimals."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def costs(tasks: Sequence[Task]) -> list[float]:
    """CPU seconds of the first n epochs as shares of full fine-tuning at one learning rate."""
    full = sum(float(task.costs.sum()) for task in tasks)
    runs = [t for task in tasks for pool in task.pools for t in pool]
    early = tasks[0].early
    return [sum(r.seconds for t in runs for r in t.records[: n + 1]) / full for n in early]


def compare(figures: bool, pool: str = "embedded") -> None:
    """Print experiments/tables/compare_predictors_<pool>.md; draw the figures if asked to."""
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    print(truth_table(read_tasks("linear", pool)) + "\n")
    print("Before any fine-tuning:\n\n" + score_table(read_tasks("linear", pool)) + "\n")
    print(
        "How much of β_eff is architecture:\n\n"
        + architecture_table(read_tasks("probe", pool))
        + "\n"
    )
    priors = priors_without_each(
        task.name for known in POOLS for task in read_tasks("probe", known)
    )
    print("What is still gained after the last epoch:\n\n" + growth_table(priors) + "\n")
    print("Order of pairs, stated and right:\n\n" + pairs_table(priors, pool) + "\n")
    taus: dict[str, dict[str, list[float]]] = {}
    shares: dict[str, list[float]] = {}
    for head in HEADS:
        tasks = read_tasks(head, pool, rate_of(pool))
        table, shares[head] = cells(head, tasks, priors), costs(tasks)
        spent = ", ".join(f"{share:.0%} (n={n})" for share, n in zip(shares[head], tasks[0].early))
        print(f"### head={head}\n\nCost in CPU seconds, compilation included: {spent}\n")
        print_table(table, tasks[0].early)
        print()
        taus[head] = {
            name: [np.nan if cell is None else cell.tau.value for cell in table[name]]
            for name in SHOWN
            if name in table
        }
    if figures:
        comparison_figures.beta_eff_against_accuracy(read_tasks("probe"), epochs=3)
        comparison_figures.tau_against_cost(taus, shares)


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_bool("figures", False, "Draw the figures of docs/results/early-signals.md.")
    flags.DEFINE_enum("pool", "embedded", POOLS, "Whose runs are compared.")


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    compare(FLAGS.figures, FLAGS.pool)


if __name__ == "__main__":
    define_flags()
    app.run(main)
