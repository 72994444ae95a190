"""One model from the end of the ranking to convergence; its best epoch is kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ncap_jax.data import batching
from ncap_jax.finetune import evaluation, loop, mesh, steps
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.ops.dtypes import is_key
from ncap_jax.options import FinishConfig, Metric
from ncap_jax.types import EpochRecord
from ncap_jax.winner import convergence


class Weights(NamedTuple):
    """A model: {"backbone", "head"} parameters, and batch statistics and the like."""

    params: Any
    state: Any


class Way(NamedTuple):
    """What is kept after every epoch: the state now, and the weights of the best epoch so far."""

    now: steps.TrainState
    best: Weights


@dataclass(frozen=True)
class Converged:
    """A model at its best epoch.

    Attributes:
        records: of all its epochs, the ranking's included.
        best_epoch: that of the weights.
        weights: on the host.
        metric: by which the best epoch was chosen.
    """

    records: tuple[EpochRecord, ...]
    best_epoch: int
    weights: Weights
    metric: Metric = "accuracy"

    @property
    def merit(self) -> tuple[float, float]:
        """By which models are compared: higher is better."""
        return convergence.merit(self.records[self.best_epoch], self.metric)


class Finished(NamedTuple):
    """A model at its best epoch, and its static parts."""

    converged: Converged
    network: steps.Network


@dataclass(frozen=True)
class Course:
    """A model that is trained to convergence.

    Attributes:
        training: with the program that trains.
        judging: the same with the program that evaluates, the ranking's.
        config: when it ends, and at which rates it trains.
        first: the epoch after which it begins, the ranking's last.
    """

    training: FineTuning
    judging: FineTuning
    config: FinishConfig
    first: int


def converge(
    course: Course,
    seen: Sequence[EpochRecord],
    start: Callable[[], steps.TrainState],
    *,
    checkpoints: Checkpoints,
    on_record: Callable[[EpochRecord], None] = lambda record: None,
) -> Converged:
    """Train until nothing gets better or the epochs are over.

    The state after the ranking counts as an epoch: a model that training only harms stays what it
    was. An epoch whose losses are not finite ends the training.

    Args:
        course: the model.
        seen: its records, those of the ranking first. What follows them was trained before, and
            the last one's state is in `checkpoints`.
        start: gives the state at the end of the ranking; not called where the training resumes.
        checkpoints: where the state is kept after every epoch.
        on_record: called with each record as it is made, before its state is kept.

    Raises:
        OutputError: a checkpoint cannot be written or read.
    """
    records, first, metric = list(seen), course.first, course.judging.config.metric
    way = _begin(course, records[-1].epoch, start, checkpoints)
    while not convergence.is_over(records[first:], course.config, metric):
        train_state, record = train(course, way.now, records)
        records.append(record)
        on_record(record)
        if not convergence.is_finite(record):
            break
        better = convergence.best(records[first:], metric) == len(records) - 1 - first
        way = Way(train_state, on_host(train_state) if better else way.best)
        checkpoints.save(record.epoch, way)
    best_epoch = first + convergence.best(records[first:], metric)
    return Converged(tuple(records), best_epoch, on_host(way.best), metric)


def _begin(
    course: Course, epoch: int, start: Callable[[], steps.TrainState], checkpoints: Checkpoints
) -> Way:
    """Where the training begins or resumes."""
    if epoch == course.first:
        state = start()
        return Way(state, on_host(state))
    like = course.training.candidate.train_state
    way = checkpoints.restore(epoch, Way(like, Weights(like.params, like.state)))
    return Way(mesh.replicate(course.training.candidate.program.mesh, way.now), way.best)


def train(
    course: Course, train_state: steps.TrainState, records: Sequence[EpochRecord]
) -> tuple[steps.TrainState, EpochRecord]:
    """The next epoch and its record, which has validation figures alone; consumes the state."""
    began = time.perf_counter()
    tuning, last = course.training, records[-1].epoch
    before = records[-1].steps
    recipe = tuning.config
    rate = records[course.first].learning_rate or recipe.learning_rate
    steps_per_epoch = batching.steps_per_epoch(len(tuning.feed.labels), recipe.batch_size)
    rates = convergence.learning_rates(
        course.config, rate, last + 1 - course.first, steps_per_epoch, records[course.first :]
    )
    train_state, loss = loop.train_epoch(tuning, train_state, last + 1, rates)
    found = evaluation.evaluate(course.judging, train_state)
    record = EpochRecord(
        epoch=last + 1,
        train_loss=float("nan"),
        train_accuracy=float("nan"),
        validation_loss=float(found.loss[0] / found.samples),
        validation_accuracy=float(found.correct[0] / found.samples),
        running_loss=loss,
        learning_rate=float(rates[-1]),
        validation_counts=evaluation.class_counts(found),
        steps=None if before is None else before + steps_per_epoch,
    )
    return train_state, dataclasses.replace(record, seconds=time.perf_counter() - began)


def on_host(held: steps.TrainState | Weights) -> Weights:
    """A copy of a model's weights that no training step donates."""
    return jax.tree.map(_copied, Weights(held.params, held.state))


def _copied(leaf: Any) -> Any:
    return jax.random.clone(leaf) if is_key(leaf) else np.array(leaf)


def class_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Weights with which every class counts alike: n / (K n_k), by the classes that occur.

    Args:
        labels: (n,) integers, the training labels.
        num_classes: K.
    """
    counts = np.bincount(labels, minlength=num_classes)
    occurring = np.count_nonzero(counts)
    return tuple((len(labels) / (occurring * np.maximum(counts, 1))).tolist())
