"""Fine-tune on 10,000 images, in epochs as long as the paper's, and measure beta_eff within them.

    python -m experiments.build_long_epochs --set=fashion_mnist --heads=probe --seeds=0,1,2
    python -m experiments.build_long_epochs --set=cifar10 --heads=linear --seeds=0
    python -m experiments.build_long_epochs --pack

The paper's early epochs have 500 to 1,000 steps each, those of `experiments.build_corpus` 4 to 63.
Here an epoch has 313 steps of 32 images, the test part's 2,000 images validate, and a run has 20
epochs. It is measured before training, five times in each of the first two epochs, and after every
later one. The probes are four at once, which start from other weights each.

    fashion_mnist   the embedded models
    cifar10         published weights that have not seen it, at 32 pixels

Both heads of probes train at 1e-3, like the paper's; ordinary fine-tuning at the rate that suits
the model on other data (`ncap_jax.finetune.learning_rates`).

Each run has its file `<work_dir>/<set>/<model>/<head>-seed<k>.json`; what is there, or packed, is
not run again. `--pack` gathers them into experiments/corpus/long_epochs/<set>.jsonl, a line a run:
`model`, `seed`, `head` and, as columns, what was seen after so many steps (`step`); each beta_eff
is one number for each probe.

Expected: 3 to 15 CPU seconds an epoch of the embedded models.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from experiments import build_corpus, corpus_files
from experiments.build_corpus import GENUINE
from ncap_jax import caching, data
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.files import write_atomically
from ncap_jax.finetune import learning_rates, loop, steps
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.finetune.evaluation import observe
from ncap_jax.finetune.outcome import is_finite
from ncap_jax.measure import training
from ncap_jax.options import HEADS, Head, RankConfig
from ncap_jax.run import facts
from ncap_jax.types import Dataset, EpochRecord, ModelSpec
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS

FOLDER = corpus_files.FOLDER / "long_epochs"
SETS = {
    "fashion_mnist": ("tiny_*",),
    "cifar10": tuple(name for name in GENUINE if not name.startswith("cifar_resnet")),
}
EPOCHS, BATCH, SIDE, PROBES = 20, 32, 32, 4
# Steps at which the first epochs are measured, before their end; multiples of one piece, so that a
# program that runs many steps at once is compiled once.
MARKS = (52, 104, 156, 208)
MARKED_EPOCHS = 2


def load(name: str, shared: pathlib.Path) -> Dataset:
    """A TFDS set whose whole training part trains and whose test part validates."""
    tfds = str(shared / "tfds")
    found, test = data.load_dataset(name, data_dir=tfds), data.load_test_part(name, data_dir=tfds)
    assert test is not None
    assert found.validation_images is not None
    assert found.validation_labels is not None
    return dataclasses.replace(
        found,
        images=np.concatenate([found.images, found.validation_images]),
        labels=np.concatenate([found.labels, found.validation_labels]),
        validation_images=np.asarray(test.images),
        validation_labels=test.labels,
    )


def config_of(spec: ModelSpec, head: Head, seed: int, weights_dir: str) -> RankConfig:
    """The configuration of one run."""
    config = RankConfig(
        epochs=EPOCHS,
        seed=seed,
        probe_seed=seed,
        head=head,
        batch_size=BATCH,
        input_size=min(spec.input_size, SIDE),
        weights_dir=weights_dir,
        beta_eff="every_epoch",
        num_probes=1 if head == "linear" else PROBES,
    )
    known = learning_rates.known_rate(spec, config)
    rate = known if head == "linear" and known is not None else config.learning_rate
    return dataclasses.replace(config, learning_rate=rate, trial_rates=())


def follow(tuning: FineTuning, marks: Sequence[int] = MARKS) -> Iterator[tuple[int, EpochRecord]]:
    """Train, yielding the steps so far and what is seen after them.

    Args:
        tuning: its candidate's arrays are consumed. The data are in memory.
        marks: steps of the first two epochs after which they are measured, beside their end.
    """
    config, program = tuning.config, tuning.candidate.program
    state, done = loop.starting_state(tuning, None, None), 0
    yield 0, observe(tuning, state)
    for epoch in range(1, config.epochs + 1):
        key = jax.random.fold_in(jax.random.key(config.seed), epoch)
        (chunk,) = tuning.feed.train(config.seed, epoch, config.batch_size)
        length = len(chunk.indices)
        inside = [mark for mark in marks if mark < length] if epoch <= MARKED_EPOCHS else []
        for start, end in itertools.pairwise((0, *inside, length)):
            piece = chunk._replace(indices=chunk.indices[start:end], mask=chunk.mask[start:end])
            state, losses = steps.train_steps(program, state, piece, key, start)
            record = observe(tuning, state, epoch)
            running = float(np.mean(np.asarray(losses)))
            yield done + end, dataclasses.replace(record, running_loss=running)
            if not is_finite(record):
                return
        done += length


def run(spec: ModelSpec, feed: Feed, head: Head, seed: int, weights_dir: str) -> dict[str, Any]:
    """One run as a line of the file."""
    start = time.process_time()
    config = config_of(spec, head, seed, weights_dir)
    tuning = training.start(spec, feed, config)
    columns: dict[str, list[Any]] = {}
    for step, record in follow(tuning):
        seen = {
            "step": step,
            **{name: corpus_files.short(getattr(record, name)) for name in corpus_files.COLUMNS},
            **{
                f"beta_eff_{s}": [corpus_files.short(v) for v in vs]
                for s, vs in record.beta_eff.items()
            },
            "cpu": round(time.process_time() - start, 2),
        }
        for name, value in seen.items():
            columns.setdefault(name, []).append(value)
    rate = config.learning_rate
    about = {"model": spec.name, "seed": seed, "head": head, "learning_rate": rate}
    return {**about, "parameters": spec.parameters, **columns}


def read(name: str) -> list[dict[str, Any]]:
    """The packed runs on a set."""
    return corpus_files.lines_of(FOLDER / f"{name}.jsonl")


def pack(work_dir: pathlib.Path) -> None:
    """Add the runs of a folder to the packed ones."""
    for folder in sorted(path for path in work_dir.glob("*") if path.is_dir()):
        found = [json.loads(file.read_text()) for file in sorted(folder.glob("*/*.json"))]
        corpus_files.add(FOLDER / f"{folder.name}.jsonl", found, ("model", "head", "seed"))
    about = {"epochs": EPOCHS, "batch": BATCH, "side": SIDE, "environment": facts.describe()}
    write_atomically(FOLDER / "about.json", json.dumps(about, indent=1, default=str) + "\n")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_enum("set", "fashion_mnist", list(SETS), "On which set.")
    flags.DEFINE_list("models", [], "Only these names or patterns.")
    flags.DEFINE_list("heads", list(HEADS), "Which heads.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
    build_corpus.define_places("runs/long_epochs")


def main(argv: list[str]) -> None:
    """Make the runs that are missing, or pack what is there."""
    del argv
    if FLAGS.pack:
        pack(pathlib.Path(FLAGS.work_dir))
        return
    caching.keep_compiled_programs()
    specs = find_models(FLAGS.models or SETS[FLAGS.set])
    feed = make_feed(load(FLAGS.set, pathlib.Path(FLAGS.shared)))
    packed = {(x["model"], x["head"], x["seed"]) for x in read(FLAGS.set)}
    for seed, head, spec in itertools.product(map(int, FLAGS.seeds), FLAGS.heads, specs):
        file = pathlib.Path(FLAGS.work_dir, FLAGS.set, spec.name, f"{head}-seed{seed}.json")
        if (spec.name, head, seed) not in packed and not file.is_file():
            start = time.perf_counter()
            found = run(spec, feed, head, seed, FLAGS.weights_dir)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(found, allow_nan=False))
            logging.info("%s: %.0f s", file, time.perf_counter() - start)


if __name__ == "__main__":
    define_flags()
    app.run(main)
