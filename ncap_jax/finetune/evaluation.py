"""What a candidate has reached: losses, accuracies and beta_eff, in inference mode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.options import RankConfig
from ncap_jax.types import ClassCounts, EpochRecord, FeatureFlaw, ModelSpec, Statuses, Values

# Features that vary by less than this share of the largest one are the same for all images: eight
# roundings of float32 (docs/numerics.md).
CONSTANT = 1e-6

# Features, labels and mask (False where a sample only pads the batch).
Batch = tuple[jax.Array, jax.Array, np.ndarray]


def observe(tuning: FineTuning, train_state: steps.TrainState, epoch: int = 0) -> EpochRecord:
    """Losses and accuracies of the model after an epoch; beta_eff too if it is measured then."""
    measured = list(_measured(tuning, train_state))
    train = _total([_sums(tuning, train_state, *part) for part in measured])
    validation = evaluate(tuning, train_state)
    features, labels = _joined(tuning, measured)
    flaw = feature_flaw(features)
    start = time.perf_counter()
    beta_eff: Values = {}
    status: Statuses = {}
    if tuning.measure is not None and tuning.is_measured(epoch):
        beta_eff, status = tuning.measure(train_state, features, labels)
    return EpochRecord(
        epoch=epoch,
        train_loss=_mean(train.loss, train.samples),
        train_accuracy=_mean(train.correct, train.samples),
        validation_loss=_mean(validation.loss, validation.samples),
        validation_accuracy=_mean(validation.correct, validation.samples),
        beta_eff=beta_eff,
        beta_eff_status=status,
        measure_seconds=time.perf_counter() - start,
        features=flaw,
        validation_counts=class_counts(validation),
        steps=epoch * batching.steps_per_epoch(len(tuning.feed.labels), tuning.config.batch_size),
    )


def evaluate(tuning: FineTuning, train_state: steps.TrainState) -> steps.Sums:
    """Sums over the validation part, every sample counted once."""
    parts: list[steps.Sums] = []
    for chunk in tuning.feed.validation(tuning.candidate.evaluation_batch):
        for indices, mask in zip(chunk.indices, chunk.mask):
            features = _features(tuning, train_state, jnp.take(chunk.images, indices, axis=0))
            labels = jnp.take(chunk.labels, indices)
            parts.append(_sums(tuning, train_state, features, labels, mask))
            if tuning.deadline is not None:
                jax.block_until_ready(parts[-1])
                tuning.deadline()
    return _total(parts)


def class_counts(sums: steps.Sums) -> ClassCounts:
    """The counts by class of sums over all batches."""
    images, correct, predicted = (
        np.asarray(column).astype(int).tolist()
        for column in (sums.class_samples, sums.class_correct, sums.class_predicted)
    )
    return ClassCounts(tuple(images), tuple(map(tuple, correct)), tuple(map(tuple, predicted)))


def measurement_features(
    tuning: FineTuning, train_state: steps.TrainState
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width) float32 and labels (n,) of the measurement subset, inference mode."""
    return _joined(tuning, list(_measured(tuning, train_state)))


def _measured(tuning: FineTuning, train_state: steps.TrainState) -> Iterator[Batch]:
    """The measurement subset in batches as large as the validation part's, the last one padded."""
    candidate = tuning.candidate
    samples, size = candidate.measurement, candidate.evaluation_batch
    for indices, mask in zip(*batching.padded_batches(len(samples), size)):
        images, labels = tuning.feed.subset(samples[indices])
        yield _features(tuning, train_state, images), labels, mask


def _joined(tuning: FineTuning, parts: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of batches without padding; on the host, which compiles nothing."""
    size = len(tuning.candidate.measurement)
    features, labels, _ = zip(*parts)
    return np.concatenate(features)[:size], np.concatenate(labels)[:size]


def _total(parts: Sequence[steps.Sums]) -> steps.Sums:
    """The sums of all batches, added in float64 on the host."""
    columns = (np.stack(column) for column in zip(*parts))
    return steps.Sums(*(column.sum(axis=0, dtype=np.float64) for column in columns))


def untouched_features(
    spec: ModelSpec, feed: Feed, config: RankConfig
) -> tuple[np.ndarray, np.ndarray]:
    """`measurement_features` of a model before any training, for transferability scores."""
    candidate = prepare(spec, feed, config)
    return measurement_features(FineTuning(candidate, feed, config), candidate.train_state)


def feature_flaw(features: np.ndarray) -> FeatureFlaw:
    """What is wrong with a model's features on the data, whatever its losses are.

    A damaged network need not show it in its losses: behind `max(0, NaN)` stands a number, and the
    head learns the shares of the classes. Found on the host, where nothing is compiled for it.

    Args:
        features: (n, width) float32 of n images.
    """
    if not np.isfinite(features).all():
        return "not finite"
    spread = np.ptp(features, axis=0).max(initial=0.0)
    # No single sample can vary. A tolerance, for sums are rounded by their place in the batch.
    if len(features) > 1 and spread <= CONSTANT * np.abs(features).max(initial=0.0):
        return "constant"
    return ""


def _features(tuning: FineTuning, train_state: steps.TrainState, images: jax.Array) -> jax.Array:
    program = tuning.candidate.program
    compute = steps.features.at(program.effort)
    return compute(program.network, *train_state[:2], images, program.mesh)


def _sums(
    tuning: FineTuning,
    train_state: steps.TrainState,
    features: jax.Array,
    labels: jax.Array,
    mask: np.ndarray,
) -> steps.Sums:
    head = train_state.params["head"], train_state.state["head"]
    compute = steps.head_sums.at(tuning.candidate.program.effort)
    return compute(tuning.candidate.network.head, *head, features, labels, mask)


def _mean(total: np.ndarray, count: np.ndarray) -> float:
    """Mean over samples and probes as a Python float."""
    return float(np.mean(total) / count)
