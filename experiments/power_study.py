"""How small a difference between two methods can the corpus show, and how many tasks would it take?

    python -m experiments.power_study

Reads experiments/corpus; takes about a minute. A task is a set of the corpus, with the seeds that
it has. Of two methods the difference in the points that their first models lose is taken on each
seed, and averaged over seeds, then over tasks.

- race, halving: against a run of five epochs of all models, as `experiments.race_study` replays
  them;
- the others: against the last validation accuracy after n epochs, as `experiments.rivals_study`
  judges both, by seeds that were not read.

Columns: by how much more the second loses, mean over tasks, with its standard error; how many tasks
the error would take to be WANTED points; and how many if each task had seeds without end, so that
only the tasks differ. With x_t the mean over the seeds of task t, of T,

    error² = var_t x_t / T,   tasks = var_t x_t / WANTED²,
    of many seeds: (var_t x_t − mean_t v_t / s_t) / WANTED²                                    (W1)

v_t the variance over the s_t seeds of a task; tasks with one seed have the mean of the others'.

Expected result: experiments/tables/power_study.md; what follows: docs/results/rivals.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import app

from experiments import finish_replay as replay
from experiments import race_study, rivals_study
from experiments.few_images_study import series
from experiments.rivals_study import EPOCHS, HEAD, LIST, RATES, Signal
from experiments.tasks import POOLS, Task, priors_without_each, read_tasks
from ncap_jax.run import facts

WANTED = 0.25  # points
# Rules against "full", by their names in `experiments.race_study`.
RULES = {"race": "race: the product's", "halving": "halving"}

# Of each task the differences of its seeds.
Differences = list[np.ndarray]


class Power(NamedTuple):
    """What is known of a mean difference (W1); points and numbers of tasks."""

    mean: float
    error: float
    tasks: int
    of_many_seeds: int


def power(found: Sequence[np.ndarray]) -> Power:
    """Equation (W1).

    Args:
        found: of each task, (seeds,) differences in points; two tasks at least, and one of them
            with two seeds.
    """
    means = np.array([rows.mean() for rows in found])
    spread = float(means.var(ddof=1))
    usual = float(np.mean([rows.var(ddof=1) for rows in found if rows.size > 1]))
    luck = [(rows.var(ddof=1) if rows.size > 1 else usual) / rows.size for rows in found]
    apart = max(spread - float(np.mean(luck)), 0.0)
    tasks, of_many = (math.ceil(variance / WANTED**2) for variance in (spread, apart))
    return Power(float(means.mean()), math.sqrt(spread / means.size), tasks, of_many)


def rules() -> Iterator[tuple[str, Differences]]:
    """Race and halving against a full run."""
    sets = [runs for pool in POOLS for runs in replay.read_pool(pool, large=True)]
    priors = priors_without_each(runs.name for runs in sets)
    lost = {
        way: race_study.column(race_study.replay_all(race_study.WAYS[way], sets, priors), "lost")
        for way in ("full", *RULES.values())
    }
    for name, way in RULES.items():
        yield name, [b - a for a, b in zip(lost["full"], lost[way], strict=True)]


def loss(name: str, epochs: int) -> Signal:
    """Minus a loss after so many epochs."""
    return lambda task, pool: -series(task, name, epochs)


def rivals(epochs: int) -> dict[str, Signal]:
    """What the last accuracy is compared with."""
    return {
        "validation loss": loss("validation_loss", epochs),
        "training loss": loss("train_loss", epochs),
        LIST: rivals_study.static_list,
        "accuracy and list": rivals_study.combined(rivals_study.static_list, epochs),
    }


def lost(signal: Signal, pools: Sequence[Sequence[Task]]) -> Differences:
    """Points that its first model loses, of every task and seed."""
    return [
        rivals_study.Judged(task, signal(task, pool), rivals_study.judging(task)).mean(
            rivals_study.regret
        )
        for pool in pools
        for task in pool
    ]


def signals() -> Iterator[tuple[str, Differences]]:
    """The rivals against the last accuracy."""
    pools = [read_tasks(HEAD, pool, RATES[pool], large=True) for pool in POOLS]
    for n in EPOCHS:
        accuracy = lost(rivals_study.accuracy(n), pools)
        for name, signal in rivals(n).items():
            theirs = lost(signal, pools)
            yield f"{name}, {n}", [b - a for a, b in zip(accuracy, theirs, strict=True)]


def row(name: str, found: Sequence[np.ndarray]) -> str:
    """One comparison."""
    known = power(found)
    shown = f"{known.mean:+.2f} ± {known.error:.2f} | {known.tasks} | {known.of_many_seeds}"
    return f"| {name} | {shown} |"


def table() -> str:
    """All comparisons."""
    lines = ["| method | loses more | tasks | of many seeds |", "|---" * 4 + "|"]
    return "\n".join([*lines, *(row(*each) for each in (*rules(), *signals()))])


def main(argv: list[str]) -> None:
    """Print the table."""
    del argv
    print(f"{json.dumps(facts.describe(), default=str)}\n\n{table()}")


if __name__ == "__main__":
    app.run(main)
