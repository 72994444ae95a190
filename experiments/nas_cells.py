"""Cells of NAS-Bench-201 trained from scratch: which early signal ranks them as their end does?

    taskset -c 0 nice python -m experiments.nas_cells --build
    python -m experiments.nas_cells

The first trains what is missing and packs the numbers into `--corpus`; it takes about ten minutes
of one core and resumes where it was stopped. The second reads them and prints the tables, in
seconds. `--dataset=cifar10 --data_dir=... --channels=16 --cells=5` with another `--corpus` and
`--work_dir` is the benchmark's network.

The cells are a seeded sample of the space (`experiments.nas201`), dead ones and copies left out.
Each is trained from random weights by the code that fine-tunes, twice a seed: with a linear head to
the end, which gives the truth (validation accuracy at the end, mean over seeds) and the early
signals of head=linear, and below the frozen probe for the early epochs.

Expected result: experiments/tables/nas_cells.md; what follows: docs/results/from-scratch.md.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags, logging

from experiments import corpus_files, nas201
from ncap_jax import caching, data, errors
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.files import write_atomically
from ncap_jax.finetune import loop, trajectory_files
from ncap_jax.measure import training
from ncap_jax.options import Head, RankConfig
from ncap_jax.predictor import PREDICTORS
from ncap_jax.predictor.base import Predictor
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.types import NETWORK_STRENGTHS, ModelSpec, Trajectory

FLAGS = flags.FLAGS

EARLY = (1, 2, 3, 5)
# Bootstrap samples of every interval.
DRAWS = 300
HEADS: tuple[Head, ...] = ("probe", "linear")


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that decides the runs."""

    dataset: str = "digits"
    architectures: int = 12
    channels: int = 4
    cells: int = 1
    input_size: int = 16
    epochs: int = 12
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_size: int = 32
    learning_rate: float = 1e-3
    max_train: int = 500
    max_validation: int = 500
    sample_seed: int = 0

    def specs(self) -> list[ModelSpec]:
        """The candidates."""
        cells, _ = nas201.sample(self.architectures, self.sample_seed)
        return [nas201.spec(cell, self.channels, self.cells, self.input_size) for cell in cells]

    def config(self, head: Head, seed: int) -> RankConfig:
        """Of one run: ordinary training to its end, the probe for the early epochs."""
        return RankConfig(
            epochs=self.epochs if head == "linear" else min(max(EARLY), self.epochs),
            head=head,
            seed=seed,
            probe_seed=seed,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            trial_rates=(),
            weights="random",
            beta_eff="every_epoch",
        )

    def observed(self, head: Head) -> frozenset[int]:
        """Epochs that are measured: the early ones and the end."""
        return frozenset([*range(max(EARLY) + 1), self.config(head, 0).epochs])


def build(study: Study, work_dir: pathlib.Path, data_dir: str | None = None) -> dict[str, Any]:
    """Train what is missing, and return the corpus: settings, architectures, runs as columns."""
    claim(study, work_dir)
    specs = study.specs()
    feed = make_feed(
        data.load_dataset(
            study.dataset,
            data_dir=data_dir,
            max_train=study.max_train,
            max_validation=study.max_validation,
        )
    )
    runs = [
        {"model": spec.name, "head": head, "seed": seed, "columns": corpus_files.compact(lines)}
        for spec in specs
        for head in HEADS
        for seed, lines in train(study, spec, head, feed, work_dir)
    ]
    return {
        "study": dataclasses.asdict(study),
        "left_out": nas201.sample(study.architectures, study.sample_seed)[1],
        "environment": facts.describe(),
        "architectures": {
            spec.name: {"string": spec.description, "parameters": spec.parameters} for spec in specs
        },
        "runs": runs,
    }


def claim(study: Study, work_dir: pathlib.Path) -> None:
    """Refuse a folder with runs of other settings; more architectures and seeds may join.

    Raises:
        OutputError: it holds another study.
    """
    file = work_dir / "study.json"
    settings = dataclasses.asdict(study)
    del settings["architectures"], settings["seeds"]
    if not file.is_file():
        write_atomically(file, json.dumps(settings) + "\n")
    elif json.loads(file.read_text(encoding="utf-8")) != settings:
        raise errors.OutputError(f"{work_dir} holds another study", "Give another --work_dir")


def train(
    study: Study, spec: ModelSpec, head: Head, feed: Feed, work_dir: pathlib.Path
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Every seed's records of an architecture under a head, from its file where there is one."""
    for seed in study.seeds:
        file = work_dir / spec.name / f"{head}{seed}.json"
        if not file.is_file():
            config = study.config(head, seed)
            tuning = training.start(spec, feed, config)
            start = time.process_time()
            lines = [
                {**trajectory_files.to_json(record), "cpu": time.process_time() - start}
                for record in loop.run(tuning, study.observed(head))
            ]
            write_atomically(file, json.dumps(lines, allow_nan=False))
            end = lines[-1]
            logging.info(
                "%s %s seed %d: accuracy %.3f in %.0f s",
                *(spec.name, head, seed, end["validation_accuracy"], end["cpu"]),
            )
        yield seed, json.loads(file.read_text(encoding="utf-8"))


class Runs:
    """The corpus as arrays: models sorted by their end, best first."""

    def __init__(self, corpus: dict[str, Any]):
        self._columns = {(r["model"], r["head"], r["seed"]): r["columns"] for r in corpus["runs"]}
        self.seeds = sorted({seed for _, _, seed in self._columns})
        names = corpus["architectures"]
        self.models = sorted(names, key=lambda name: -self.finals(name).mean())
        self.truth = np.array([self.finals(name).mean() for name in self.models])

    def finals(self, model: str) -> np.ndarray:
        """(seeds,) validation accuracy at the end of ordinary training."""
        runs = [self._columns[model, "linear", seed] for seed in self.seeds]
        return np.array([run["validation_accuracy"][-1] for run in runs])

    def agreement(self) -> float:
        """How far the truth agrees with itself; NaN for one seed."""
        table = np.array([self.finals(model) for model in self.models]).T
        if len(table) < 2:
            return float("nan")
        others = [np.delete(table, seed, axis=0).mean(axis=0) for seed in range(len(table))]
        return float(np.mean([metrics.kendall_tau(*pair) for pair in zip(table, others)]))

    def pools(self, head: Head, epochs: int) -> list[list[Trajectory]]:
        """Per seed, the first epochs of every model."""
        return [
            [
                corpus_files.trajectory(m, head, self._columns[m, head, seed], epochs)
                for m in self.models
            ]
            for seed in self.seeds
        ]


def tau(method: Predictor, runs: Runs, head: Head, epochs: int) -> str:
    """Kendall's τ of a method after n epochs with the end, with its interval."""
    if epochs < method.min_epochs:
        return ""
    predicted = [[p.mean for p in method(pool)] for pool in runs.pools(head, epochs)]
    found = metrics.over_models_and_seeds(
        metrics.kendall_tau, np.array(predicted), runs.truth, draws=DRAWS
    )
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def compare(corpus: dict[str, Any]) -> None:
    """Print experiments/tables/nas_cells.md."""
    runs = Runs(corpus)
    study = corpus["study"]
    print(f"{json.dumps(corpus['environment'])}\n\n{json.dumps(study)}\n")
    print(f"Drawn and left out as dead or a copy: {corpus['left_out']}\n")
    print(f"| architecture | parameters | accuracy after {study['epochs']} epochs |\n|---|---|---|")
    for model in runs.models:
        entry, finals = corpus["architectures"][model], 100 * runs.finals(model)
        # The bars of the string would end the table's cell.
        string = entry["string"].replace("|", "\\|")
        spread = f" ± {finals.std(ddof=1):.1f}" if len(finals) > 1 else ""
        print(f"| `{string}` | {entry['parameters']:,} | {finals.mean():.1f}{spread} |")
    print(f"\nτ of one seed's end with the other seeds' mean: {runs.agreement():.2f}")
    early = [n for n in EARLY if n <= study["epochs"]]
    for head in HEADS:
        print(f"\n### head={head}\n")
        print("| method | " + " | ".join(f"n={n}" for n in early) + " |")
        print("|---|" + "---|" * len(early))
        for name, method in PREDICTORS.items():
            if head == "linear" and method.strength not in (None, *NETWORK_STRENGTHS):
                continue
            print(f"| {name} | " + " | ".join(tau(method, runs, head, n) for n in early) + " |")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_bool("build", False, "Train what is missing and pack it, then compare.")
    packed = str(corpus_files.FOLDER / "nas_cells_digits.json")
    flags.DEFINE_string("corpus", packed, "The packed numbers.")
    flags.DEFINE_string("work_dir", "runs/nas_cells", "Where the runs are kept.")
    flags.DEFINE_string("data_dir", None, "TFDS folder, for other sets than digits.")
    for field in dataclasses.fields(Study):
        default: Any = field.default
        if field.name == "seeds":
            flags.DEFINE_list("seeds", list(map(str, default)), "Seeds.")
        elif field.name == "dataset":
            flags.DEFINE_string("dataset", default, "digits, or a prepared TFDS set.")
        else:
            define = flags.DEFINE_float if field.type == "float" else flags.DEFINE_integer
            define(field.name, default, f"{field.name.replace('_', ' ').capitalize()}.")


def main(argv: list[str]) -> None:
    """Build if asked to, then compare."""
    del argv
    path = pathlib.Path(FLAGS.corpus)
    if FLAGS.build:
        values: dict[str, Any] = {
            field.name: FLAGS[field.name].value for field in dataclasses.fields(Study)
        }
        study = Study(**{**values, "seeds": tuple(map(int, FLAGS.seeds))})
        caching.keep_compiled_programs()
        corpus = build(study, pathlib.Path(FLAGS.work_dir), FLAGS.data_dir)
        write_atomically(path, json.dumps(corpus, allow_nan=False) + "\n")
    compare(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    define_flags()
    app.run(main)
