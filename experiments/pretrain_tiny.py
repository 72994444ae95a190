"""Pretrain the embedded pool on CIFAR-10 and write the weights that the package ships.

Command (about half an hour on two cores; the data lies beside the checkout):

    python -m experiments.pretrain_tiny --data_dir=../shared/data/tfds

Every model sees the same 10,000 training images with flips and padded crops under AdamW with a
cosine schedule; what is printed and kept is the accuracy on the 2,000 test images. Two models
are deliberately poor: `tiny_plain_barely` stops after 40 steps, `tiny_resnet_random` is never
trained. Expected: 0.5 to 0.7 for the trained ones, about 0.3 and 0.1 for those two; the
manifest beside the weights holds the figures of the shipped run.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax import nnx

from ncap_jax import data
from ncap_jax.data import batching
from ncap_jax.data.augment import Augmentation
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import Candidate, FineTuning
from ncap_jax.finetune.evaluation import evaluate
from ncap_jax.options import RankConfig
from ncap_jax.types import Dataset, ModelSpec
from ncap_jax.zoo import functional, probe, tiny
from ncap_jax.zoo.preprocess import Preprocess
from ncap_jax.zoo.weights import store

FLAGS = flags.FLAGS

BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 5e-4
STEPS = {"tiny_plain_barely": 40, "tiny_resnet_random": 0}
AUGMENTATION = Augmentation(flip=True, crop=4)


def pretrain(spec: ModelSpec, feed: Feed, *, epochs: int, seed: int, output: pathlib.Path) -> dict:
    """Train one model and write its weights.

    Returns:
        The model's entry in the manifest.
    """
    start = time.perf_counter()
    per_epoch = batching.steps_per_epoch(len(feed.labels), BATCH)
    total = STEPS.get(spec.name, epochs * per_epoch)
    candidate = build(spec, WarmupCosine(per_epoch // 2, max(total, 100)), seed)
    train_state, done = candidate.train_state, 0
    for epoch in range(-(-total // per_epoch)):
        (chunk,) = feed.train(seed, epoch, BATCH)
        batches = chunk.indices[: total - done]
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        train_state, losses = steps.train_steps(
            candidate.program, train_state, chunk._replace(indices=batches), key
        )
        done += len(batches)
        logging.info("%s epoch %d loss %.3f", spec.name, epoch + 1, float(jnp.mean(losses)))
    sums = evaluate(FineTuning(candidate, feed, RankConfig()), train_state)
    accuracy = float(sums.correct[0] / sums.samples)
    module = functional.merge(
        candidate.network.backbone, train_state.params["backbone"], train_state.state["backbone"]
    )
    file = f"{spec.name}.safetensors"
    digest = store.save_module(module, output / file, {"model": spec.name, "source": "cifar10"})
    seconds = time.perf_counter() - start
    print(f"{spec.name:20s} source accuracy {accuracy:.3f}  {done:5d} steps  {seconds:5.0f} s")
    return {
        "file": file,
        "sha256": digest,
        "source": "cifar10, 10,000 training images",
        "source_accuracy": round(accuracy, 4),
        "steps": done,
        "seed": seed,
    }


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """AdamW with a linear warm-up and a cosine decay, both in steps."""

    warmup: int
    total: int

    def __call__(self) -> optax.GradientTransformation:
        """The transformation."""
        schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, self.warmup, self.total)
        return optax.adamw(schedule, weight_decay=WEIGHT_DECAY)


def build(spec: ModelSpec, optimizer: WarmupCosine, seed: int) -> Candidate:
    """A randomly initialised candidate with a linear head for the ten source classes."""
    definition, params, state = functional.split(spec.build(rngs=nnx.Rngs(seed)))
    assert spec.feature_width is not None, "models of the zoo state it"
    head, head_params, head_state = probe.make_linear_head(spec.feature_width, 10, seed=seed)
    network = steps.Network(
        definition,
        head,
        Preprocess(spec.preprocessing, spec.input_size, jnp.float32),
        steps.trained_parts("linear"),
    )
    all_params = {"backbone": params, "head": head_params}
    train_state = steps.TrainState(
        all_params, {"backbone": state, "head": head_state}, optimizer().init(all_params)
    )
    return Candidate(
        spec.name,
        steps.Program(network, optimizer, AUGMENTATION),
        jax.tree.map(jnp.array, train_state),
        measurement=np.zeros(0, np.int32),
        rates=(),
    )


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_string("data_dir", "../shared/data/tfds", "TFDS folder with cifar10.")
    flags.DEFINE_string("output_dir", "ncap_jax/zoo/weights", "Where the weights are written.")
    flags.DEFINE_list("models", [], "Which models; empty: all.")
    flags.DEFINE_integer("epochs", 12, "Epochs of the ordinary models.")
    flags.DEFINE_integer("seed", 0, "Seed of initialisation and order.")


def main(argv: list[str]) -> None:
    """Pretrain the chosen models and update the manifest."""
    del argv
    output = pathlib.Path(FLAGS.output_dir)
    whole = data.load_dataset("cifar10", data_dir=FLAGS.data_dir, seed=FLAGS.seed)
    everything = Dataset(
        np.concatenate([whole.images, whole.validation_images]),
        np.concatenate([whole.labels, whole.validation_labels]),
        *data.load_test_split("cifar10", data_dir=FLAGS.data_dir),
        class_names=whole.class_names,
    )
    feed = make_feed(everything)
    path = output / "manifest.json"
    models = json.loads(path.read_text())["models"] if path.is_file() else {}
    for spec in tiny.SPECS:
        if not FLAGS.models or spec.name in FLAGS.models:
            models[spec.name] = pretrain(
                spec, feed, epochs=FLAGS.epochs, seed=FLAGS.seed, output=output
            )
            content = {"schema": 1, "models": dict(sorted(models.items()))}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
