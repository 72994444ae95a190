"""Does the order of published weights that a CPU found at 40 pixels hold at their own input size?

    python -m benchmarks.native_ranking --set=cifar10 --seed=0 --data=../shared/data --output=FILE

Fine-tunes the models whose weights the data folder holds (`ncap_jax.rank_models`, the default
recipe: ordinary fine-tuning, a trial of two learning rates) and compares with
experiments/corpus/<set>_genuine.jsonl, whose truth is ordinary fine-tuning at the better rate
(docs/results/published-weights.md). There birds525 had 85 species, here it has all 525. A killed
call goes on in --work.

`tau_small`: Kendall's τ between the accuracies at the end, here and there, over the models of both.
`tau_early`: between the accuracies after n epochs here and those at the end here.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

import ncap_jax as ncap
from benchmarks import accelerator_data, timing
from experiments import corpus_files
from experiments.tasks import RATES
from ncap_jax import caching, files
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune.programs import compile_programs
from ncap_jax.measure import training
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.types import Dataset, ModelSpec, Ranking
from ncap_jax.zoo import MODELS, find_models
from ncap_jax.zoo.weights import places

FLAGS = flags.FLAGS
# On CIFAR-10 these were trained.
CIFAR = "cifar_resnet"


def define_flags() -> None:
    """Called by the script alone."""
    flags.DEFINE_string("set", "cifar10", "Name of the data set.")
    flags.DEFINE_string("pool", "genuine", "The corpus's pool, whose models are taken.")
    flags.DEFINE_list("models", [], "Names in the registry (default: those of the corpus).")
    flags.DEFINE_string("data", "../shared/data", "Folder of the data sets and of weights/.")
    flags.DEFINE_integer("seed", 0, "Seed of the run.", lower_bound=0)
    flags.DEFINE_integer("epochs", 10, "Epochs of fine-tuning.", lower_bound=1)
    flags.DEFINE_integer("train", 2000, "Training images.", lower_bound=1)
    flags.DEFINE_integer("validation", 1000, "Validation images.", lower_bound=1)
    flags.DEFINE_integer("size", 224, "Side of all inputs in pixels.", lower_bound=8)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
    flags.DEFINE_bool("compile_only", False, "Compile all programs, for the cache; train nothing.")
    flags.DEFINE_string("work", "runs/native_ranking", "Folder of the run.")
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")


def corpus_ends(name: str, pool: str) -> dict[str, float]:
    """Model -> accuracy at the end of ordinary fine-tuning at the better rate, mean over seeds."""
    found: dict[str, list[float]] = {}
    for line in corpus_files.read(corpus_files.FOLDER / f"{name}_{pool}.jsonl"):
        runs = [line["runs"][kind] for kind in RATES["linear"] if kind in line["runs"]]
        end = max(run["validation_accuracy"][-1] for run in runs)
        found.setdefault(line["model"], []).append(end)
    return {model: float(np.mean(ends)) for model, ends in found.items()}


def chosen(names: Sequence[str], weights: pathlib.Path) -> list[ModelSpec]:
    """The models whose weights are at hand."""
    folder = str(weights) if weights.is_dir() else None
    specs = [MODELS[name] for name in names]
    return [spec for spec in specs if places.locate(spec, folder).kind in ("package", "folder")]


def config(weights: pathlib.Path) -> ncap.RankConfig:
    """What the flags say."""
    return ncap.RankConfig(
        epochs=FLAGS.epochs,
        seed=FLAGS.seed,
        dtype=FLAGS.dtype,
        input_size=FLAGS.size,
        weights_dir=str(weights) if weights.is_dir() else None,
    )


def compile_all(specs: Sequence[ModelSpec], dataset: Dataset, recipe: ncap.RankConfig) -> None:
    """Fill the folder of compiled programs with what a run of these models needs."""
    caching.keep_compiled_programs()
    feed = make_feed(dataset)
    for spec in specs:
        compile_programs(training.start(spec, feed, recipe), recipe.epochs)
        caching.forget_compiled_programs()


def about(ranking: Ranking, truth: Mapping[str, float]) -> dict[str, Any]:
    """Every model's way, and how far the orders agree."""
    rows: dict[str, dict[str, Any]] = {
        t.model: {
            "status": t.status,
            "seconds": t.seconds,
            "validation_accuracy": [r.validation_accuracy for r in t.records],
        }
        for t in ranking.trajectories
    }
    complete = {
        name: row["validation_accuracy"] for name, row in rows.items() if row["status"] == "ok"
    }
    ends = {name: series[-1] for name, series in complete.items()}
    both = sorted(ends.keys() & truth.keys())
    here, there = (np.array([side[name] for name in both]) for side in (ends, truth))
    early = {
        n: metrics.kendall_tau(*(np.array([s[i] for s in complete.values()]) for i in (n, -1)))
        for n in (1, 3, 5)
        if n < FLAGS.epochs and complete
    }
    agreement = {"tau_small": metrics.kendall_tau(here, there) if both else None}
    return {"models": rows, "small": dict(truth), "compared": both, **agreement, "tau_early": early}


def main(argv: list[str]) -> None:
    """Rank and compare."""
    del argv
    weights = pathlib.Path(FLAGS.data) / "weights"
    truth = corpus_ends(FLAGS.set, FLAGS.pool)
    names = FLAGS.models or [n for n in truth if not (FLAGS.set == "cifar10" and CIFAR in n)]
    specs = chosen([spec.name for spec in find_models(names)], weights)
    dataset = accelerator_data.load(FLAGS.set, FLAGS.data, FLAGS.train, FLAGS.validation)
    if FLAGS.compile_only:
        compile_all(specs, dataset, config(weights))
        return
    folder = pathlib.Path(FLAGS.work) / f"{FLAGS.set}_seed{FLAGS.seed}"
    ranking = ncap.rank_models(specs, dataset, config(weights), folder, show_progress=False)
    settings = {"set": FLAGS.set, "seed": FLAGS.seed, "size": FLAGS.size, "epochs": FLAGS.epochs}
    left_out = sorted(set(names) - {spec.name for spec in specs})
    result = {"environment": facts.describe(), **settings, "without_weights": left_out}
    timing.report(files.strict({**result, **about(ranking, truth)}), FLAGS.output)


if __name__ == "__main__":
    define_flags()
    app.run(main)
