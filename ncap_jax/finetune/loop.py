"""The epoch loop: one candidate, fine-tuned and measured epoch by epoch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial

import jax
import numpy as np

from ncap_jax.finetune import learning_rates, mesh, splits, steps
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.finetune.evaluation import measurement_features, observe
from ncap_jax.finetune.learning_rates import chosen_rate
from ncap_jax.finetune.outcome import end, is_finite
from ncap_jax.types import EpochRecord, Trajectory
from ncap_jax.zoo import probe


def run(
    tuning: FineTuning,
    observed: Container[int] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    after: int | None = None,
    until: int | None = None,
    saved: Container[int] | None = None,
    on_pause: Callable[[FineTuning], None] | None = None,
) -> Iterator[EpochRecord]:
    """Fine-tune, yielding a record before training (epoch 0) and after every epoch.

    Ends early after a record whose losses or features are not finite.

    Args:
        tuning: its candidate's arrays are consumed (donated).
        observed: only these epochs are measured and yielded; None: all.
        checkpoints: where the state is kept after each epoch, once a record of it has been taken.
        after: resume from the checkpoint of this epoch; None: from the start.
        until: pause after this epoch; None: the last of the run.
        saved: the epochs after which it is kept; None: all but the last.
        on_pause: given the candidate in its state at `until`, if epochs are left; who keeps it can
            resume without the checkpoint.
    """
    epochs, rates = tuning.config.epochs, tuning.candidate.rates
    states = starting_states(tuning, checkpoints, after)
    last = epochs if until is None else min(until, epochs)
    for epoch in range(0 if after is None else after + 1, last + 1):
        start = time.perf_counter()
        attempt = partial(advance_all, tuning, epoch=epoch)
        is_observed = observed is None or epoch in observed
        if epoch == 1 and rates != (tuning.config.learning_rate,):
            states, record = learning_rates.best_attempt(states, rates, attempt)
        elif is_observed:
            states, record = attempt(states)
        else:
            states = tuple(
                train_epoch(split, state, epoch)[0]
                for split, state in zip(tuning.splits, states, strict=True)
            )
        if is_observed:
            record = dataclasses.replace(
                record,
                seconds=time.perf_counter() - start,
                learning_rate=chosen_rate(states[0], rates, tuning.config) if epoch else None,
            )
            yield record
            if not is_finite(record):
                return
        if checkpoints is not None and epoch in (range(epochs) if saved is None else saved):
            checkpoints.save(epoch, splits.kept(states))
    if on_pause is not None and last < epochs:
        on_pause(tuning.paused(last, states))


def starting_states(
    tuning: FineTuning, checkpoints: Checkpoints | None, after: int | None
) -> tuple[steps.TrainState, ...]:
    """The states before the next epoch, on every split: from a checkpoint, or as they are."""
    if after is not None and tuning.after == after:
        return tuple(split.candidate.train_state for split in tuning.splits)
    if after is None or not tuning.others:
        return tuple(starting_state(split, checkpoints, after) for split in tuning.splits)
    assert checkpoints is not None, "resuming needs the checkpoints"
    template = splits.kept([split.candidate.train_state for split in tuning.splits])
    held = mesh.replicate(tuning.candidate.program.mesh, checkpoints.restore(after, template))
    return splits.restored(held)


def starting_state(
    tuning: FineTuning, checkpoints: Checkpoints | None, after: int | None
) -> steps.TrainState:
    """The state before the next epoch: from a checkpoint, or as prepared."""
    candidate = tuning.candidate
    if after is not None:
        assert checkpoints is not None, "resuming needs the checkpoints"
        restored = checkpoints.restore(after, candidate.train_state)
        return mesh.replicate(candidate.program.mesh, restored)
    if tuning.config.head == "linear":
        return candidate.train_state
    return calibrated(tuning, candidate.train_state)


def calibrated(tuning: FineTuning, train_state: steps.TrainState) -> steps.TrainState:
    """The state with the probe's running statistics taken from the untrained model's features.

    They are initialised to 0 and 1: epoch 0 would be measured through a normalisation that fits no
    backbone, and the first epochs through one that still contains these values.
    """
    features, _ = measurement_features(tuning, train_state)
    head_state = probe.calibrate(
        tuning.candidate.network.head,
        train_state.params["head"],
        train_state.state["head"],
        features,
    )
    return train_state._replace(state={**train_state.state, "head": head_state})


def advance_all(
    tuning: FineTuning, states: tuple[steps.TrainState, ...], epoch: int
) -> tuple[tuple[steps.TrainState, ...], EpochRecord]:
    """One epoch of training on every split, and the mean record."""
    done = [
        advance(split, state, epoch) for split, state in zip(tuning.splits, states, strict=True)
    ]
    return tuple(state for state, _ in done), splits.mean([record for _, record in done])


def advance(
    tuning: FineTuning, train_state: steps.TrainState, epoch: int
) -> tuple[steps.TrainState, EpochRecord]:
    """One epoch of training, none for epoch 0, and its record."""
    running_loss = None
    if epoch:
        train_state, running_loss = train_epoch(tuning, train_state, epoch)
    record = observe(tuning, train_state, epoch)
    return train_state, dataclasses.replace(record, running_loss=running_loss)


def train_epoch(
    tuning: FineTuning,
    train_state: steps.TrainState,
    epoch: int,
    rates: np.ndarray | None = None,
) -> tuple[steps.TrainState, float | None]:
    """One epoch of training; the batches' order depends on (seed, epoch) alone.

    Args:
        tuning: see `run`.
        train_state: before it; donated.
        epoch: its number.
        rates: (steps,) float32, the learning rate of every step; None: the state's own.

    Returns:
        The new state and the mean minibatch loss in nats; None for epoch 0, which trains nothing.
    """
    if not epoch:
        return train_state, None
    config = tuning.config
    key = jax.random.fold_in(jax.random.key(config.seed), epoch)
    losses, step = [], 0
    for chunk in tuning.feed.train(config.seed, epoch, config.batch_size):
        now = None if rates is None else rates[step : step + len(chunk.indices)]
        train_state, part = steps.train_steps(
            tuning.candidate.program,
            train_state,
            chunk,
            key,
            step,
            deadline=tuning.deadline,
            rates=now,
        )
        losses.append(part)
        step += len(chunk.indices)
    return train_state, float(np.mean(np.concatenate(losses)))


def finetune(
    tuning: FineTuning,
    *,
    seen: Sequence[EpochRecord] = (),
    recorded: Sequence[EpochRecord] = (),
    checkpoints: Checkpoints | None = None,
    until: int | None = None,
    saved: Container[int] | None = None,
    on_record: Callable[[EpochRecord], None] = lambda record: None,
    on_pause: Callable[[FineTuning], None] | None = None,
) -> Trajectory:
    """Fine-tune one candidate for all epochs of its run, or up to a pause.

    Args:
        tuning: see `run`.
        seen: the records of an interrupted run, which resumes from the last one's checkpoint.
        recorded: those after them, of epochs that are trained again, but not measured again.
        checkpoints: see `run`.
        until: pause after this epoch, to resume with `seen` and the checkpoints; None: never.
        saved: see `run`.
        on_record: called with each record as it is made.
        on_pause: see `run`.

    Returns:
        The trajectory; for status and message see `ncap_jax.finetune.outcome.end`.

    Raises:
        OutputError: a checkpoint cannot be written or read.
    """
    records, config = [*seen, *recorded], tuning.config
    start = time.perf_counter() - sum(record.seconds for record in records)
    after = seen[-1].epoch if seen else None
    new = range(len(records), config.epochs + 1)
    passed = run(
        tuning,
        new,
        checkpoints=checkpoints,
        after=after,
        until=until,
        saved=saved,
        on_pause=on_pause,
    )
    for record in passed:
        records.append(record)
        on_record(record)
    status, message = end(records, config)
    return Trajectory(
        tuning.candidate.name,
        config.head,
        tuple(records),
        status=status,
        message=message,
        seconds=time.perf_counter() - start,
    )
