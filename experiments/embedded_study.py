"""Which early signal ranks the embedded pool on digits as full fine-tuning does?

Truth: ordinary fine-tuning (fresh trainable linear head, no probe, Adam 1e-3) for 30 epochs,
the validation accuracy at the end, averaged over three seeds. Signals: the first 1, 2, 3 and 5
epochs of that run, and of one with the frozen probe; one seed of the latter runs for 15 epochs,
whose end is shown beside the truth.

Commands (the first takes about an hour on two cores and resumes where it was stopped; the second
reads what the first wrote and takes seconds):

    python -m experiments.embedded_study --build
    python -m experiments.embedded_study

Expected result: experiments/tables/embedded_study.md; what follows: docs/results/embedded-pool.md.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from scipy import stats

from ncap_jax import data
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import loop, trajectory_files
from ncap_jax.measure import training
from ncap_jax.options import Head, RankConfig
from ncap_jax.predictor import PREDICTORS, accuracies
from ncap_jax.predictor.base import Predictor
from ncap_jax.run import facts
from ncap_jax.types import EpochRecord, ModelSpec, Trajectory
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS

FULL_EPOCHS = 30
SEEDS = (0, 1, 2)
EARLY = (1, 2, 3, 5)
# Evaluation costs as much as training here: after the early epochs look only now and then.
OBSERVED = frozenset([*range(6), 10, 15, 20, 25, FULL_EPOCHS])
# The truth is the end of the linear runs. Of the probe runs the early epochs are the signal; one
# seed runs longer, to see where they end.
PROBE_EPOCHS = {0: 15, 1: max(EARLY), 2: max(EARLY)}
HEADS: tuple[Head, ...] = ("probe", "linear")


def run(spec: ModelSpec, feed: Feed, head: Head, seed: int) -> dict:
    """One long run as a line of the corpus."""
    epochs = FULL_EPOCHS if head == "linear" else PROBE_EPOCHS[seed]
    config = RankConfig(
        epochs=epochs,
        head=head,
        seed=seed,
        batch_size=64,
        beta_eff="every_epoch",
        strategy="full",
    )
    start = time.perf_counter()
    tuning = training.start(spec, feed, config)
    lines = [
        # Compilation, and the epochs between two records, are in `elapsed`.
        {**trajectory_files.to_json(record), "elapsed": time.perf_counter() - start}
        for record in loop.run(tuning, OBSERVED)
    ]
    return {"model": spec.name, "head": head, "seed": seed, "records": lines}


def build(path: pathlib.Path, specs: Sequence[ModelSpec]) -> None:
    """Append every run that the corpus does not hold yet."""
    done = {(r["model"], r["head"], r["seed"]) for r in read(path)}
    feed = make_feed(data.load_dataset("digits"))
    for seed in SEEDS:
        for head in HEADS:
            for spec in specs:
                if (spec.name, head, seed) in done:
                    continue
                line = run(spec, feed, head, seed)
                with path.open("a") as file:
                    file.write(json.dumps(line, allow_nan=False) + "\n")
                last = line["records"][-1]
                logging.info(
                    "%s %s seed %d: accuracy %.4f in %.0f s",
                    *(spec.name, head, seed, last["validation_accuracy"], last["elapsed"]),
                )


def read(path: pathlib.Path) -> list[dict]:
    """The corpus: one dict a run."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def trajectories(corpus: Sequence[dict], head: Head, seed: int) -> list[Trajectory]:
    """The first epochs of the runs of one head and seed, by model name."""
    chosen = sorted(
        (r for r in corpus if r["head"] == head and r["seed"] == seed), key=lambda r: r["model"]
    )
    return [
        Trajectory(
            r["model"],
            head,
            tuple(parse(fields) for fields in r["records"] if fields["epoch"] <= max(EARLY)),
        )
        for r in chosen
    ]


def parse(fields: dict) -> EpochRecord:
    """One epoch of a corpus line."""
    return trajectory_files.parse({k: v for k, v in fields.items() if k != "elapsed"})


def final_accuracy(corpus: Sequence[dict], head: Head) -> dict[str, np.ndarray]:
    """Model -> accuracy at the end of the long runs, one per seed."""
    runs = sorted((r for r in corpus if r["head"] == head), key=lambda r: (r["model"], r["seed"]))
    table: dict[str, list[float]] = {}
    for r in runs:
        table.setdefault(r["model"], []).append(r["records"][-1]["validation_accuracy"])
    return {model: np.array(values) for model, values in table.items()}


@dataclasses.dataclass(frozen=True)
class Score:
    """How one method did after n epochs: mean and standard deviation over seeds."""

    tau: np.ndarray
    regret: np.ndarray
    error: np.ndarray


def score(
    method: Predictor,
    corpus: Sequence[dict],
    head: Head,
    truth: dict[str, float],
    epochs: int,
) -> Score:
    """Kendall tau, regret@1 and mean absolute error against the truth, one per seed."""
    rows = []
    for seed in SEEDS:
        pool = trajectories(corpus, head, seed)
        target = np.array([truth[t.model] for t in pool])
        answers = method(pool, epochs)
        scores = np.array([p.mean for p in answers])
        predicted = np.array([p.mean for p in accuracies(method, pool, epochs, scores=answers)])
        rows.append(
            (
                stats.kendalltau(scores, target).statistic,
                target.max() - target[np.argmax(scores)],
                np.mean(np.abs(predicted - target)),
            )
        )
    return Score(*np.array(rows).T)


def cost(corpus: Sequence[dict], head: Head, epochs: int) -> float:
    """Seconds of the first epochs under `head`, as a fraction of full fine-tuning's."""

    def seconds(kind: Head, last: int) -> float:
        runs = [r["records"] for r in corpus if r["head"] == kind]
        return sum(line["elapsed"] for lines in runs for line in lines if line["epoch"] == last)

    return seconds(head, epochs) / seconds("linear", FULL_EPOCHS)


def compare(corpus: Sequence[dict]) -> None:
    """Print the study's tables."""
    longest = [r for r in corpus if r["records"][-1]["epoch"] > max(EARLY)]
    truths, probes = final_accuracy(longest, "linear"), final_accuracy(longest, "probe")
    truth = {model: float(values.mean()) for model, values in truths.items()}
    print(f"\n{json.dumps(facts.describe(), default=str)}\n")
    print(
        f"| model | full fine-tuning, {FULL_EPOCHS} epochs "
        f"| frozen probe, {PROBE_EPOCHS[0]} epochs |"
        "\n|---|---|---|"
    )
    for model in sorted(truth, key=lambda m: -truth[m]):
        print(f"| {model} | {spread(truths[model])} | {spread(probes[model])} |")
    ends = [probes[model].mean() for model in truth]
    agreement = stats.kendalltau(ends, list(truth.values())).statistic
    print(f"\nKendall tau of the two columns: {agreement:.2f}")
    print(f"Kendall tau of one seed's truth with the other two's mean: {ceiling(truths)}")
    for head in HEADS:
        print_table(corpus, head, truth)


def ceiling(truths: dict[str, np.ndarray]) -> str:
    """How far the truth agrees with itself: no method can be expected to do better."""
    table = np.array(list(truths.values()))
    taus = np.array(
        [
            stats.kendalltau(table[:, s], np.delete(table, s, axis=1).mean(axis=1)).statistic
            for s in range(table.shape[1])
        ]
    )
    return f"{taus.mean():.2f} ± {taus.std(ddof=1):.2f}"


def print_table(corpus: Sequence[dict], head: Head, truth: dict[str, float]) -> None:
    """One head's table: method x epochs, Kendall tau / regret@1 / mean absolute error."""
    seconds = ", ".join(f"{cost(corpus, head, n):.0%}" for n in EARLY)
    epochs_share = ", ".join(f"{n / FULL_EPOCHS:.0%}" for n in EARLY)
    print(f"\n### head={head}\n")
    print(f"Cost as a fraction of full fine-tuning: {epochs_share} of the epochs; {seconds} of the")
    print("seconds, compilation and measurements included\n")
    print("Kendall tau ± sd over seeds; regret@1 and mean absolute error in points of accuracy\n")
    print("| method | " + " | ".join(f"n={n}" for n in EARLY) + " | mean τ |")
    print("|---|" + "---|" * (len(EARLY) + 1))
    for name, method in PREDICTORS.items():
        if method.strength is not None and head == "linear":
            continue
        cells, taus = [], []
        for epochs in EARLY:
            if epochs < method.min_epochs:
                cells.append("")
                continue
            s = score(method, corpus, head, truth, epochs)
            taus.append(s.tau.mean())
            cells.append(
                f"{s.tau.mean():.2f} ± {s.tau.std(ddof=1):.2f}; {100 * s.regret.mean():.1f}; "
                f"{100 * s.error.mean():.1f}"
            )
        # Only methods that answer after every number of epochs can be compared by their mean.
        cells.append(f"{np.mean(taus):.2f}" if len(taus) == len(EARLY) else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    mean = f"{100 * values.mean():.2f}"
    return f"{mean} ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else mean


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_bool("build", False, "Make the runs that are missing, then compare.")
    flags.DEFINE_string("corpus", "experiments/corpus/embedded_digits.jsonl", "One line a run.")


def main(argv: list[str]) -> None:
    """Build what is missing if asked to, then compare."""
    del argv
    path = pathlib.Path(FLAGS.corpus)
    if FLAGS.build:
        build(path, find_models(["tiny_*"]))
    compare(read(path))


if __name__ == "__main__":
    define_flags()
    app.run(main)
