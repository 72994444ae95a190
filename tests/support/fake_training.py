"""Fine-tuning that compiles nothing: what surrounds it, files and checkpoints too, is real.

The state is a few numbers of the model's own, which every epoch changes; a record depends on
nothing but the state. A run that resumed from another state would record other numbers.
"""

from __future__ import annotations

import dataclasses
import types
import zlib
from typing import Any

import jax
import numpy as np
import pytest

from ncap_jax.data.feed import Feed
from ncap_jax.finetune import loop
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.options import RankConfig
from ncap_jax.run import worker
from ncap_jax.types import ClassCounts, EpochRecord, ModelSpec

State = dict[str, jax.Array]
LIMIT = 0.9


@dataclasses.dataclass(frozen=True)
class FakeCandidate:
    """What the loop sees of a candidate."""

    name: str
    rates: tuple[float, ...]
    train_state: State
    program: Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(mesh=None))


def install(patch: pytest.MonkeyPatch) -> None:
    """Let workers of this process train as described above; for runs with head='linear'."""
    patch.setattr(worker.training, "start", start)
    patch.setattr(worker, "compile_programs", lambda tuning, until: None)
    patch.setattr(loop, "advance", advance)
    patch.setattr(loop, "train_epoch", train_epoch)


def start(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    augment: Any = None,
    micro_batches: int = 1,
    deadline: Any = None,
) -> FineTuning:
    """In place of `ncap_jax.measure.training.start`."""
    weights = np.random.default_rng(zlib.crc32(spec.name.encode())).uniform(0.2, 0.8, size=4)
    candidate: Any = FakeCandidate(spec.name, (config.learning_rate,), as_state(weights))
    return FineTuning(candidate, feed, config, deadline=deadline)


def as_state(weights: np.ndarray) -> State:
    """Put on the device, without a program of any kind."""
    return {"weights": jax.device_put(weights.astype(np.float32))}


def advance(tuning: FineTuning, train_state: State, epoch: int) -> tuple[State, EpochRecord]:
    """In place of `ncap_jax.finetune.loop.advance`."""
    if tuning.deadline is not None:
        tuning.deadline()
    weights = np.asarray(train_state["weights"])
    if epoch:
        weights = weights + 0.5 * (LIMIT - weights) * weights
    accuracy = float(np.mean(weights))
    record = EpochRecord(
        epoch,
        1 - accuracy,
        accuracy,
        float(np.max(1 - weights)),
        accuracy,
        validation_counts=counts(weights),
    )
    return as_state(weights), record


def counts(weights: np.ndarray) -> ClassCounts:
    """Answers on as many classes as there are weights, each the recall of one."""
    right = np.round(1000 * weights).astype(int)
    predicted = right + np.roll(1000 - right, 1)
    return ClassCounts((1000,) * len(right), (tuple(right.tolist()),), (tuple(predicted.tolist()),))


def train_epoch(
    tuning: FineTuning, train_state: State, epoch: int, rates: np.ndarray | None = None
) -> tuple[State, None]:
    """In place of `ncap_jax.finetune.loop.train_epoch`: an epoch whose record nobody wants."""
    train_state, _ = loop.advance(tuning, train_state, epoch)
    return train_state, None
