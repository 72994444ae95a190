"""What a candidate has reached: losses, accuracies and beta_eff, in inference mode."""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.options import RankConfig
from ncap_jax.types import EpochRecord, FeatureFlaw, ModelSpec, Statuses, Values

# Features that vary by less than this share of the largest one are the same for all images: eight
# roundings of float32 (docs/numerics.md).
CONSTANT = 1e-6


def observe(tuning: FineTuning, train_state: steps.TrainState) -> EpochRecord:
    """Losses, accuracies and beta_eff of the model in its present state, as a record of epoch 0."""
    features, labels = measurement_features(tuning, train_state)
    train = _sums(tuning, train_state, features, labels, jnp.ones(len(labels)))
    validation = evaluate(tuning, train_state)
    # Dispatch is asynchronous: the evaluation's time must not count as the measurement's.
    jax.block_until_ready((train, validation, features))
    flaw = feature_flaw(features)
    start = time.perf_counter()
    beta_eff: Values = {}
    status: Statuses = {}
    if tuning.measure is not None:
        beta_eff, status = tuning.measure(train_state, features, labels)
    return EpochRecord(
        epoch=0,
        train_loss=_mean(train.loss, train.samples),
        train_accuracy=_mean(train.correct, train.samples),
        validation_loss=_mean(validation.loss, validation.samples),
        validation_accuracy=_mean(validation.correct, validation.samples),
        beta_eff=beta_eff,
        beta_eff_status=status,
        measure_seconds=time.perf_counter() - start,
        features=flaw,
    )


def evaluate(tuning: FineTuning, train_state: steps.TrainState) -> steps.Sums:
    """Summed loss and hits over the validation part, every sample counted once."""
    total: Any = None
    for chunk in tuning.feed.validation(tuning.candidate.evaluation_batch):
        for indices, mask in zip(chunk.indices, chunk.mask):
            features = _features(tuning, train_state, jnp.take(chunk.images, indices, axis=0))
            labels = jnp.take(chunk.labels, indices)
            part = _sums(tuning, train_state, features, labels, mask)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            if tuning.deadline is not None:
                jax.block_until_ready(total)
                tuning.deadline()
    return total


def measurement_features(
    tuning: FineTuning, train_state: steps.TrainState
) -> tuple[jax.Array, jax.Array]:
    """Features (n, width) float32 and labels (n,) of the measurement subset, inference mode."""
    candidate = tuning.candidate
    size = len(candidate.measurement)
    batches, _ = batching.padded_batches(size, candidate.evaluation_batch)
    images, labels = tuning.feed.subset(candidate.measurement)
    parts = [
        _features(tuning, train_state, jnp.take(images, jnp.asarray(indices), axis=0))
        for indices in batches
    ]
    return jnp.concatenate(parts)[:size], labels


def untouched_features(
    spec: ModelSpec, feed: Feed, config: RankConfig
) -> tuple[jax.Array, jax.Array]:
    """`measurement_features` of a model before any training, for transferability scores."""
    candidate = prepare(spec, feed, config)
    return measurement_features(FineTuning(candidate, feed, config), candidate.train_state)


def feature_flaw(features: jax.Array) -> FeatureFlaw:
    """What is wrong with a model's features on the data, whatever its losses are.

    A damaged network need not show it in its losses: behind `max(0, NaN)` stands a number, and the
    head learns the shares of the classes. Found on the host, where nothing is compiled for it.

    Args:
        features: (n, width) float32 of n images.
    """
    values = np.asarray(features)
    if not np.isfinite(values).all():
        return "not finite"
    spread = np.ptp(values, axis=0).max(initial=0.0)
    # No single sample can vary. A tolerance, for sums are rounded by their place in the batch.
    if len(values) > 1 and spread <= CONSTANT * np.abs(values).max(initial=0.0):
        return "constant"
    return ""


def losses_are_finite(record: EpochRecord) -> bool:
    """Whether all losses of a record are finite."""
    losses = [record.train_loss, record.validation_loss]
    if record.running_loss is not None:
        losses.append(record.running_loss)
    return all(math.isfinite(loss) for loss in losses)


def is_finite(record: EpochRecord) -> bool:
    """Whether losses and features are finite; if not, the model has diverged."""
    return record.features != "not finite" and losses_are_finite(record)


def _features(tuning: FineTuning, train_state: steps.TrainState, images: jax.Array) -> jax.Array:
    program = tuning.candidate.program
    return steps.features(program.network, *train_state[:2], images, program.mesh)


def _sums(
    tuning: FineTuning,
    train_state: steps.TrainState,
    features: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> steps.Sums:
    head = train_state.params["head"], train_state.state["head"]
    return steps.head_sums(tuning.candidate.network.head, *head, features, labels, mask)


def _mean(total: jax.Array, count: jax.Array) -> float:
    """Mean over samples and probes as a Python float."""
    return float(np.mean(np.asarray(total, np.float64)) / float(count))
