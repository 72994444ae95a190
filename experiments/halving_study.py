"""What does successive halving save, and how often does it stop the wrong model?

Every pool of the corpus (`experiments.tasks`: a data set, a seed, a head) is run again under
`strategy="halving"` for 5 epochs: the whole pool, and random pools of 8 of its models. Truth: full
fine-tuning, mean over seeds. Reported per head, number of best models kept (k) and threshold:

- saved: epochs, and seconds, that were not run, as a share of all models running all epochs;
- best stopped: share of pools whose truly best model was stopped;
- top k stopped: share of the truly best k that were stopped;
- winner stopped: share of pools in which the model that the full strategy would have ranked first
  was stopped;
- regret: accuracy lost by fully fine-tuning the model ranked first, under halving and under the
  full strategy, in points.

Then, per head, whether the stated chances hold: models with a chance in a range against the share
of them that truly is among the best k.

Command (reads the committed corpus; some minutes):

    python -m experiments.halving_study

Expected result: experiments/tables/halving_study.md; what follows: docs/results/halving.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from experiments import tasks
from ncap_jax import predictor as predictors
from ncap_jax.options import HEADS, Head, RankConfig
from ncap_jax.predictor.base import truncate
from ncap_jax.run import facts
from ncap_jax.selection import halving
from ncap_jax.types import Trajectory

FLAGS = flags.FLAGS

EPOCHS = 5
MIN_MODELS = 10
TOPS = (1, 3)
THRESHOLDS = (0.01, 0.05, 0.1, 0.2)
EDGES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


class Pool(NamedTuple):
    """Recorded runs of one data set, head and seed, and what full fine-tuning reached."""

    head: Head
    seed: int
    trajectories: Sequence[Trajectory]
    truth: Mapping[str, float]


def read() -> list[Pool]:
    """The pools of the corpus with `MIN_MODELS` models at least."""
    found = []
    for head, task in [(h, task) for h in HEADS for task in tasks.read_tasks(h)]:
        truth = dict(zip((t.model for t in task.pools[0]), task.truth.tolist()))
        for seed, pool in enumerate(task.pools):
            if len(pool) >= MIN_MODELS:
                short = [truncate(t, EPOCHS) for t in pool]
                found.append(Pool(head, seed, short, truth))
    return found


def smaller(pool: Pool, size: int, number: int) -> Iterator[Pool]:
    """Random pools of `size` of the models."""
    rng = np.random.default_rng(pool.seed)
    for _ in range(number):
        chosen = sorted(rng.choice(len(pool.trajectories), size, replace=False))
        yield pool._replace(trajectories=[pool.trajectories[i] for i in chosen])


class Outcome(NamedTuple):
    """One pool under halving, in the columns of the table."""

    epochs_saved: float
    seconds_saved: float
    best_stopped: float
    top_stopped: float
    winner_stopped: float
    regret: float
    full_regret: float


def replay(pool: Pool, config: RankConfig) -> dict[str, int]:
    """Model -> epochs that halving lets it run."""
    ends = {t.model: config.epochs for t in pool.trajectories}
    alive = set(ends)
    for rung in halving.rungs(config):
        # What a stopped model would have done later is not known at this rung.
        seen = [truncate(t, min(rung, ends[t.model])) for t in pool.trajectories]
        for model in halving.stopped(seen, alive, config, rung):
            ends[model] = rung
            alive.discard(model)
    return ends


def judge(pool: Pool, config: RankConfig) -> Outcome:
    """Replay one pool and compare with the truth and with the full strategy."""
    ends = replay(pool, config)
    stopped = {model for model, epochs in ends.items() if epochs < config.epochs}
    cut = [
        dataclasses.replace(
            truncate(t, ends[t.model]), status="stopped" if t.model in stopped else "ok"
        )
        for t in pool.trajectories
    ]
    truth = {t.model: pool.truth[t.model] for t in pool.trajectories}
    order = sorted(truth, key=lambda model: -truth[model])
    first = _first([t for t in cut if t.status == "ok"], config)
    winner = _first(pool.trajectories, config)
    return Outcome(
        1 - sum(ends.values()) / (config.epochs * len(ends)),
        1 - _seconds(cut) / _seconds(pool.trajectories),
        float(order[0] in stopped),
        float(np.mean([model in stopped for model in order[: config.halving_top]])),
        float(winner in stopped),
        truth[order[0]] - truth[first],
        truth[order[0]] - truth[winner],
    )


def _first(trajectories: Sequence[Trajectory], config: RankConfig) -> str:
    """The model that the run's predictor ranks first."""
    scores = predictors.get(config.predictor, config.head)(trajectories)
    return trajectories[int(np.argmax([score.mean for score in scores]))].model


def _seconds(trajectories: Sequence[Trajectory]) -> float:
    return sum(record.seconds for t in trajectories for record in t.records)


def print_table(pools: Sequence[Pool]) -> None:
    """Saving and wrong stops for every k and threshold."""
    print(
        "\n| head | k | threshold | epochs saved | seconds saved | best stopped "
        "| top k stopped | winner stopped | regret | regret, full |\n|" + "---|" * 10
    )
    for head, top, threshold in itertools.product(HEADS, TOPS, THRESHOLDS):
        print(table_row(pools, head, top, threshold), flush=True)


def table_row(pools: Sequence[Pool], head: Head, top: int, threshold: float) -> str:
    """Saving and wrong stops for one k and threshold, over the pools of a head."""
    config = RankConfig(
        epochs=EPOCHS,
        head=head,
        strategy="halving",
        halving_top=top,
        halving_threshold=threshold,
    )
    rows = np.array([judge(pool, config) for pool in pools if pool.head == head])
    share = " | ".join(f"{100 * value:.0f} %" for value in rows[:, :5].mean(axis=0))
    regret = " | ".join(f"{100 * value:.2f}" for value in rows[:, 5:].mean(axis=0))
    return f"| {head} | {top} | {threshold} | {share} | {regret} |"


def print_calibration(pools: Sequence[Pool], top: int) -> None:
    """Stated chances of being among the best `top`, at all rungs, against what came true."""
    print(f"\n| head | stated chance, k = {top} | models at rungs | truly so |\n|" + "---|" * 4)
    for head in HEADS:
        config = RankConfig(epochs=EPOCHS, head=head, strategy="halving", halving_top=top)
        stated, true = [], []
        for pool in (pool for pool in pools if pool.head == head):
            names = [t.model for t in pool.trajectories]
            best = sorted(names, key=lambda model: -pool.truth[model])[:top]
            for rung in halving.rungs(config):
                found = halving.chances(pool.trajectories, names, config, rung)
                stated += [found[name] for name in names]
                true += [name in best for name in names]
        for low, high in itertools.pairwise(EDGES):
            inside = np.array([low <= s < high or s == high == 1.0 for s in stated])
            if inside.any():
                share = f"{100 * np.mean(np.array(true)[inside]):.0f} %"
                print(f"| {head} | {low} to {high} | {inside.sum()} | {share} |")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_integer("pools", 5, "Random smaller pools of each whole one.")
    flags.DEFINE_integer("size", 8, "Models in each of them.")


def main(argv: list[str]) -> None:
    """Print the study's tables."""
    del argv
    whole = read()
    print(f"{json.dumps(facts.describe(), default=str)}\n\n### Whole pools: {len(whole)}")
    print_table(whole)
    print_calibration(whole, 3)
    parts = [p for pool in whole for p in smaller(pool, FLAGS.size, FLAGS.pools)]
    print(f"\n### Pools of {FLAGS.size} models: {len(parts)}")
    print_table(parts)


if __name__ == "__main__":
    define_flags()
    app.run(main)
