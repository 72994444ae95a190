"""Fine-tune each of 41 candidates on three sets: what a long list is judged by.

    python -m experiments.build_long_lists --sets=fashion_mnist-500,birds6,cifar10-500 --seeds=0,1,2
    python -m experiments.build_long_lists --pack

The candidates are the 13 embedded models, 14 with published weights, and as decoys 14 of these
networks with random weights. Images are squares of 40 pixels; ordinary fine-tuning, batches of 32,
at the rate that suits the model on other data (`ncap_jax.finetune.learning_rates`), 1e-3 where none
is known. Recorded are the first five epochs and the tenth, the truth; and the scores of the
untouched model's features. On cifar10 the embedded models and the CIFAR ResNets see images that
they were trained on.

Each run has its file `<work_dir>/<set>/<model>/seed<k>.json`; what is there, or packed, is not run
again. `--pack` gathers them into experiments/corpus/long_lists/<set>_long.jsonl, a line a run in
the format of `experiments.corpus_files`. CPU seconds contain compilation where the run was the
first of its shapes; `experiments.long_list_study` takes the first seconds of each model.

Expected: a quarter of an hour of one core for each set and seed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import app, flags, logging

from experiments import build_corpus, corpus_files, corpus_sets
from ncap_jax import caching
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.files import write_atomically
from ncap_jax.finetune import learning_rates
from ncap_jax.options import RankConfig
from ncap_jax.run import facts
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import find_models
from ncap_jax.zoo.weights import sources

FLAGS = flags.FLAGS

FOLDER = corpus_files.FOLDER / "long_lists"
SIDE, BATCH, EARLY, EPOCHS = 40, 32, 5, 10
SCORES = ("logme", "linear_probe", "nearest_neighbours")
DECOY = "untrained_"
DECOYS = (
    "mobilenet_025",
    "mobilenet_075",
    "mobilenet_12blocks",
    "mobilenetv2",
    "squeezenet",
    "cifar_resnet20",
    "cifar_resnet32",
    "tiny_plain",
    "tiny_plain_wide",
    "tiny_resnet",
    "tiny_senet",
    "tiny_depthwise",
    "tiny_densenet",
    "tiny_inception",
)


def candidates() -> tuple[ModelSpec, ...]:
    """All of them, decoys last."""
    known = find_models(("tiny_*", *build_corpus.GENUINE))
    decoys = [
        dataclasses.replace(spec, name=DECOY + spec.name, weights=sources.RANDOM, source="")
        for spec in find_models(DECOYS)
    ]
    return (*known, *decoys)


def config_of(spec: ModelSpec, seed: int, weights_dir: str | None) -> RankConfig:
    """The configuration of one run."""
    config = RankConfig(
        epochs=EPOCHS,
        seed=seed,
        batch_size=BATCH,
        input_size=min(spec.input_size, SIDE),
        weights_dir=weights_dir,
        beta_eff="off",
    )
    rate = learning_rates.known_rate(spec, config) or config.learning_rate
    return dataclasses.replace(config, learning_rate=rate, trial_rates=())


def run(spec: ModelSpec, feed: Feed, seed: int, weights_dir: str | None) -> dict[str, Any]:
    """One run as a line of the file."""
    config = config_of(spec, seed, weights_dir)
    found = build_corpus.scores(spec, feed, config, SCORES)
    records = build_corpus.run(spec, feed, config, frozenset({*range(EARLY + 1), EPOCHS}))
    about = {"model": spec.name, "seed": seed, "parameters": spec.parameters}
    runs = {"linear": corpus_files.compact(records)}
    return {**about, "learning_rate": config.learning_rate, "scores": found, "runs": runs}


def packed(name: str) -> pathlib.Path:
    """The file of a set."""
    return FOLDER / f"{name}_long.jsonl"


def pack(work_dir: pathlib.Path) -> None:
    """Add the runs of a folder to the packed ones."""
    for folder in sorted(path for path in work_dir.glob("*") if path.is_dir()):
        found = [json.loads(file.read_text()) for file in sorted(folder.glob("*/*.json"))]
        corpus_files.add(packed(folder.name), found, ("model", "seed"))
    about = {"epochs": EPOCHS, "batch": BATCH, "side": SIDE, "environment": facts.describe()}
    write_atomically(FOLDER / "about.json", json.dumps(about, indent=1, default=str) + "\n")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_list("sets", ["fashion_mnist-500", "birds6", "cifar10-500"], "On which sets.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
    build_corpus.define_places("runs/long_lists")


def main(argv: list[str]) -> None:
    """Make the runs that are missing, or pack what is there."""
    del argv
    if FLAGS.pack:
        pack(pathlib.Path(FLAGS.work_dir))
        return
    caching.keep_compiled_programs()
    shared, specs = pathlib.Path(FLAGS.shared), candidates()
    feeds = {name: make_feed(corpus_sets.load(name, shared, side=SIDE)) for name in FLAGS.sets}
    done = {
        (name, x["model"], x["seed"])
        for name in FLAGS.sets
        for x in corpus_files.read(packed(name))
    }
    for seed in map(int, FLAGS.seeds):
        for name, feed in feeds.items():
            for spec in specs:
                file = pathlib.Path(FLAGS.work_dir, name, spec.name, f"seed{seed}.json")
                if (name, spec.name, seed) in done or file.is_file():
                    continue
                start = time.perf_counter()
                found = run(spec, feed, seed, FLAGS.weights_dir)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(found, allow_nan=False))
                logging.info("%s: %.0f s", file, time.perf_counter() - start)


if __name__ == "__main__":
    define_flags()
    app.run(main)
