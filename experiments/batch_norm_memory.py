"""What the published momenta of batch norm cost in a short fine-tuning.

    python -m experiments.batch_norm_memory

Ordinary fine-tuning of published MobileNets on the six bird species (256 training images of 40
pixels, Adam 1e-3, batches of 32, 10 epochs: 80 steps), with running averages as published and as
`ncap_jax.finetune.batch_norm` limits them. Validation accuracy at the end, in inference mode, which
uses these averages; mean and range over seeds.

Expected result: experiments/tables/batch_norm_memory.md; what follows:
docs/results/published-weights.md. About ten CPU minutes.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from unittest import mock

from absl import app, flags
from flax import nnx

from experiments import build_corpus, corpus_sets
from ncap_jax import caching
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import batch_norm, loop
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.options import RankConfig
from ncap_jax.run import facts
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import find_models, functional

FLAGS = flags.FLAGS
POOL = build_corpus.POOLS["genuine"]
MODELS = ("mobilenet_025", "mobilenet_075", "mobilenetv2")


@contextlib.contextmanager
def as_published() -> Iterator[None]:
    """Running averages keep their published momentum."""
    with mock.patch.object(batch_norm, "limit_memory"):
        yield


def end(spec: ModelSpec, feed: Feed, seed: int, weights_dir: str) -> float:
    """Validation accuracy after the last epoch."""
    config = RankConfig(
        seed=seed,
        head="linear",
        trial_rates=(),
        epochs=POOL.epochs,
        batch_size=POOL.batch_size,
        input_size=POOL.largest_input,
        weights_dir=weights_dir,
    )
    tuning = FineTuning(prepare(spec, feed, config), feed, config)
    (record,) = loop.run(tuning, {config.epochs})
    return record.validation_accuracy


def momentum(spec: ModelSpec) -> float:
    """Of the first batch norm, as published."""
    module = functional.build_to_fill(spec.build, seed=0)
    return next(
        node.momentum for _, node in nnx.iter_graph(module) if isinstance(node, nnx.BatchNorm)
    )


def words(ends: list[float]) -> str:
    """Mean and range in percent."""
    return f"{100 * sum(ends) / len(ends):.1f} ({100 * min(ends):.1f} to {100 * max(ends):.1f})"


def study(feed: Feed, seeds: int, weights_dir: str) -> str:
    """The table."""
    lines = ["| model | momentum | as published | limited |", "|---|---|---|---|"]
    for spec in find_models(MODELS):
        limited = [end(spec, feed, seed, weights_dir) for seed in range(seeds)]
        with as_published():
            published = [end(spec, feed, seed, weights_dir) for seed in range(seeds)]
        cells = f"{momentum(spec)} | {words(published)} | {words(limited)}"
        lines.append(f"| {spec.name} | {cells} |")
    return "\n".join(lines)


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_integer("seeds", 3, "How many.", lower_bound=1)
    flags.DEFINE_string("shared", "../shared/data", "Folder with the sets and the weights.")


def main(argv: list[str]) -> None:
    """Print the environment and the table."""
    del argv
    caching.keep_compiled_programs()
    shared = pathlib.Path(FLAGS.shared)
    feed = make_feed(corpus_sets.load("birds6", shared, **POOL.cut))
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    print(study(feed, FLAGS.seeds, str(shared / "weights")))


if __name__ == "__main__":
    define_flags()
    app.run(main)
