"""Do the genuine weights do what their source says? Linear probes and accuracies on CIFAR-10.

Commands (the first takes about a quarter of an hour on two idle cores):

    python -m experiments.check_weights --weights_dir=../shared/data/weights
    python -m experiments.check_weights --weights_dir=... --models=mobilenet_025 --models=squeezenet

A linear probe is logistic regression on standardised features: of the first 1,000 training
images, accuracy on the first 1,000 test images, resized to 128 pixels; beside it the same network
with random weights (seed 0). The CIFAR ResNets are run as classifiers, with the last layer of
their file, on all test images at 32 pixels.

Expected result: docs/models.md, section "Genuine weights". Two probes on disjoint samples of this
size differ by about 0.02 (one standard deviation of the difference).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ncap_jax import data
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, load_model, preprocess
from ncap_jax.zoo.weights import readers, sources

FLAGS = flags.FLAGS

Arrays = tuple[np.ndarray, np.ndarray]
BATCH = 50
# Inverse of the L2 penalty: with as many features as samples the default of 1 overfits.
STRENGTH = 0.01


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_string("weights_dir", "../shared/data/weights", "Folder with the published files.")
    flags.DEFINE_string("data_dir", "../shared/data/tfds", "TFDS folder with cifar10.")
    flags.DEFINE_multi_string("models", [], "Which models; none: all whose weights are there.")
    flags.DEFINE_integer("size", 128, "Side of the input of the probed models in pixels.")
    flags.DEFINE_integer("samples", 1000, "Training and test images of a probe.")
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")


def main(_: list[str]) -> None:
    """Print one line a model."""
    folder = FLAGS.weights_dir
    images, labels = data.load_test_split("cifar10", data_dir=FLAGS.data_dir)
    train, test = samples(FLAGS.data_dir, FLAGS.samples)
    rows = []
    for spec in _models():
        if spec.family == "cifar_resnet":
            row = {"model": spec.name, "accuracy": accuracy(spec, images, labels, folder)}
        else:
            row = {
                "model": spec.name,
                "probe": probe(spec, train, test, "pretrained", folder, FLAGS.size),
                "random": probe(spec, train, test, None, folder, FLAGS.size),
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


def _models() -> list[ModelSpec]:
    chosen = FLAGS.models or [name for name, spec in MODELS.items() if spec.family != "tiny"]
    local = {name: sources.find_local(MODELS[name], FLAGS.weights_dir) for name in chosen}
    return [MODELS[name] for name in chosen if local[name] is not None]


def samples(data_dir: str, number: int) -> tuple[Arrays, Arrays]:
    """The first images and labels of the training and of the test part."""
    dataset = data.load_dataset("cifar10", data_dir=data_dir, validation_fraction=0.2)
    images, labels = data.load_test_split("cifar10", data_dir=data_dir)
    train = np.asarray(dataset.images[:number]), np.asarray(dataset.labels[:number])
    return train, (images[:number], labels[:number])


def probe(
    spec: ModelSpec, train: Arrays, test: Arrays, weights: str | None, weights_dir: str, size: int
) -> float:
    """Accuracy of logistic regression on a model's standardised features."""
    module = load_model(spec, weights, weights_dir=weights_dir)
    features = extractor(module, spec, size)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    classifier.fit(features(train[0]), train[1])
    return float(classifier.score(features(test[0]), test[1]))


def accuracy(spec: ModelSpec, images: np.ndarray, labels: np.ndarray, weights_dir: str) -> float:
    """Accuracy of a network as published, its classifier read from the same file."""
    module = load_model(spec, weights_dir=weights_dir)
    path = sources.find_local(spec, weights_dir)
    assert path is not None
    arrays = readers.read(path)
    (name,) = spec.layout.classifier
    features = extractor(module, spec, spec.input_size)(images)
    logits = features @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
    return float(np.mean(logits.argmax(axis=1) == labels))


def extractor(module: nnx.Module, spec: ModelSpec, size: int) -> Callable:
    """uint8 images (n, h, w, c) -> features (n, width), compiled for one batch size."""
    graphdef, state = nnx.split(module)

    @jax.jit
    def run(state, batch):
        x = preprocess.preprocess(batch, spec.preprocessing, size)
        model: Any = nnx.merge(graphdef, state)
        return model.features(x)

    def features(images: np.ndarray) -> np.ndarray:
        batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        return np.concatenate([np.asarray(run(state, jnp.asarray(batch))) for batch in batches])

    return features


if __name__ == "__main__":
    define_flags()
    app.run(main)
