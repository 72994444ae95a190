"""Published weights: what the learning rate and a trial of it do to truths and early signals.

    python -m experiments.published_study

Reads the genuine pool of experiments/corpus (`experiments.build_corpus --pool=genuine` makes it);
takes about a minute. The truth is ordinary fine-tuning at the better of 1e-3 and 3e-4. Early
signals are taken at the higher rate for all models, at the lower for all, or, as the product does
by default where it knows no better, at the one whose first epoch has the lower validation loss, or
at the one that ends better for this model on the other sets, which is what the product knows of its
models (`ncap_jax.finetune.learning_rates`).
`python -m experiments.compare_predictors --pool=genuine` compares all methods under the last.

Expected result: experiments/tables/published_study.md; what follows:
docs/results/published-weights.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from absl import app

from experiments import corpus_files
from experiments.compare_predictors import interval, means, over_tasks
from experiments.tasks import RATES, Rate, Task, data_of, known_rates, methods, read_tasks
from ncap_jax import predictor as predictors
from ncap_jax.options import Head
from ncap_jax.run import facts
from ncap_jax.selection import metrics

POOL = "genuine"
TRIED: tuple[Head, ...] = ("trainable_probe", "linear")


def lines_by_set(pool: str = POOL) -> dict[str, list[dict]]:
    """Data set -> the corpus's lines of the pool."""
    files = [path for path in corpus_files.files() if path.stem.endswith(f"_{pool}")]
    return {data_of(path.stem): corpus_files.read(path) for path in files}


def end(line: dict, kind: str) -> float:
    """Validation accuracy at the end of a run."""
    return line["runs"][kind]["validation_accuracy"][-1]


def ends_table() -> str:
    """Validation accuracy at the end of ordinary fine-tuning, by rate; mean over seeds."""
    lines = ["| set | model | 1e-3 | 3e-4 |", "|---|---|---|---|"]
    for name, found in lines_by_set().items():
        for model in sorted({line["model"] for line in found}):
            runs = [line for line in found if line["model"] == model]
            ends = [100 * np.mean([end(line, kind) for line in runs]) for kind in RATES["linear"]]
            lines.append(f"| {name} | {model} | {ends[0]:.1f} | {ends[1]:.1f} |")
    return "\n".join(lines)


def choice_table() -> str:
    """Which rate ends better, and what one epoch at each says about it.

    Lost: accuracy at the better rate's end minus that at the end of the rate that is always taken,
    was chosen, or is the model's better one on the other sets; mean over runs, in points. The
    embedded pool, which has no early epochs at the
    lower rate, shows why it has no trial.
    """
    lines = [
        "| set | runs | lost at 1e-3 | lost at 3e-4 | 1e-3 is the better "
        "| lost by the choice | chosen is the better "
        "| lost by other sets' rate | it is the better |",
        "|---" * 9 + "|",
    ]
    kinds = RATES["linear"]
    for name, found in lines_by_set().items():
        ends = np.array([[end(line, kind) for kind in kinds] for line in found])
        losses = [[line["runs"][kind]["validation_loss"][1] for kind in kinds] for line in found]
        at = ends[np.arange(len(ends)), np.argmin(losses, axis=1)]
        known = known_rates(POOL, without=name)
        there = ends[np.arange(len(ends)), [known[line["model"]] for line in found]]
        cells = [always(ends), lost(ends, at), lost(ends, there)]
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    for name, found in lines_by_set("embedded").items():
        ends = np.array([[end(line, kind) for kind in kinds] for line in found])
        lines.append(f"| {name}, embedded models | {len(found)} | {always(ends)} | | | | |")
    return "\n".join(lines)


def always(ends: np.ndarray) -> str:
    """Cells of always taking the higher or the lower rate; `ends` is (runs, 2)."""
    low = 100 * np.mean(ends.max(axis=1) - ends[:, 1])
    points, _, share = lost(ends, ends[:, 0]).partition(" | ")
    return f"{points} | {low:.1f} | {share}"


def lost(ends: np.ndarray, at: np.ndarray) -> str:
    """Cells of a way that ends at `at`, (runs,): points lost, share of runs that lose nothing."""
    best = ends.max(axis=1)
    return f"{100 * np.mean(best - at):.1f} | {100 * np.mean(at == best):.0f} %"


def rates_table(head: Head) -> str:
    """The default method by the rate of the early signals: τ [interval]; regret@1 in points."""
    name = predictors.get("default", head).name
    lines = []
    for rate in WORDS:
        tasks = read_tasks(head, POOL, rate)
        cells = [cell(name, tasks, n) for n in tasks[0].early]
        lines.append(f"| {head} | {name} | {WORDS[rate]} | {' | '.join(cells)} |")
    return "\n".join(lines)


WORDS: dict[Rate, str] = {
    "high": "1e-3",
    "low": "3e-4",
    "better": "the better after an epoch",
    "known": "the better on other sets",
}


def cell(name: str, tasks: Sequence[Task], epochs: int) -> str:
    """One method after n epochs over all sets."""
    found = [means(methods(task.head)[name](task, (), epochs)[1]) for task in tasks]
    tau = over_tasks(metrics.kendall_tau, [(v, t.truth) for v, t in zip(found, tasks)])
    regrets = [np.mean([metrics.regret(row, t.truth) for row in v]) for v, t in zip(found, tasks)]
    return f"{interval(tau)}; {100 * np.mean(regrets):.1f}"


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    print(choice_table() + "\n")
    early = read_tasks("linear", POOL)[0].early
    print("| head | method | early epochs at | " + " | ".join(f"n={n}" for n in early) + " |")
    print("|---" * (3 + len(early)) + "|")
    for head in TRIED:
        print(rates_table(head))
    print("\n" + ends_table())


if __name__ == "__main__":
    app.run(main)
