"""The epoch loop: one candidate, fine-tuned and measured epoch by epoch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Container, Iterator, MutableMapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.finetune import measure, parallel, rates, steps
from ncap_jax.finetune.candidate import Candidate, blank, prepare
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.types import EpochRecord, ModelSpec, RankConfig, Status, Trajectory
from ncap_jax.zoo import probe


def run(
    candidate: Candidate,
    feed: Feed,
    config: RankConfig,
    observed: Container[int] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    after: int | None = None,
    until: int | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[EpochRecord]:
    """Fine-tune, yielding a record before training (epoch 0) and after every epoch.

    Ends early after a record whose losses are not finite.

    Args:
        candidate: from `prepare`; its arrays are consumed (donated).
        feed: the data, on the device or streamed to it.
        config: of the run.
        observed: only these epochs are measured and yielded; None: all.
        checkpoints: where the state is kept after each epoch, once its record has been taken.
        after: go on from the checkpoint of this epoch; None: from the start.
        until: pause after this epoch; None: `config.epochs`.
        check: called between steps and between batches of measurement; what it raises ends the
            run (`steps.make_epoch`).
    """
    if after is not None:
        assert checkpoints is not None, "going on needs the checkpoints"
        train_state = checkpoints.restore(after, candidate.train_state)
        train_state = parallel.replicate(candidate.mesh, train_state)
    elif config.head != "linear":
        train_state = calibrated(candidate, candidate.train_state, feed)
    else:
        train_state = candidate.train_state
    last = config.epochs if until is None else min(until, config.epochs)
    for epoch in range(0 if after is None else after + 1, last + 1):
        start = time.perf_counter()
        seen = observed is None or epoch in observed
        record: EpochRecord | None
        if epoch == 1 and len(candidate.rates) > 1:
            attempt = partial(
                advance, candidate, feed=feed, config=config, epoch=epoch, seen=True, check=check
            )
            train_state, record = rates.best(train_state, candidate.rates, attempt)
        else:
            train_state, record = advance(candidate, train_state, feed, config, epoch, seen, check)
        if not seen or record is None:
            continue
        record = dataclasses.replace(
            record,
            seconds=time.perf_counter() - start,
            learning_rate=rates.chosen(train_state, candidate.rates) if epoch else None,
        )
        yield record
        if not is_finite(record):
            return
        if checkpoints is not None and epoch < config.epochs:
            checkpoints.save(epoch, train_state)


def advance(
    candidate: Candidate,
    train_state: steps.TrainState,
    feed: Feed,
    config: RankConfig,
    epoch: int,
    seen: bool,
    check: Callable[[], None] | None = None,
) -> tuple[steps.TrainState, EpochRecord | None]:
    """One epoch of training, none for epoch 0, and its record where it is to be seen."""
    running_loss = None
    if epoch:
        train_state, running_loss = train_epoch(candidate, train_state, feed, config, epoch, check)
    if not seen:
        return train_state, None
    record = observe(candidate, train_state, feed, config, check)
    return train_state, dataclasses.replace(record, epoch=epoch, running_loss=running_loss)


def calibrated(candidate: Candidate, train_state: steps.TrainState, feed: Feed) -> steps.TrainState:
    """The state with the probe's running statistics taken from the untrained model's features.

    As drawn they are 0 and 1: epoch 0 would be measured through a normalisation that fits no
    backbone, and the first epochs through one that still carries it.
    """
    features, _ = subset_features(candidate, train_state, feed)
    head_state = probe.calibrate(
        candidate.network.head, train_state.params["head"], train_state.state["head"], features
    )
    return train_state._replace(state={**train_state.state, "head": head_state})


def train_epoch(
    candidate: Candidate,
    train_state: steps.TrainState,
    feed: Feed,
    config: RankConfig,
    epoch: int,
    check: Callable[[], None] | None = None,
) -> tuple[steps.TrainState, float]:
    """One epoch of training; the batches' order depends on (seed, epoch) alone.

    `check`: see `run`.

    Returns:
        The new state and the mean minibatch loss in nats.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), epoch)
    losses, step = [], 0
    for chunk in feed.train(config.seed, epoch, config.batch_size):
        # One key a step, by the step's number: chunks of any length draw the same keys.
        numbers = jnp.arange(step, step + len(chunk.indices))
        keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
        train_state, part = candidate.epoch(
            train_state, chunk.images, chunk.labels, chunk.indices, keys, check
        )
        losses.append(part)
        step += len(chunk.indices)
    return train_state, float(jnp.mean(jnp.concatenate(losses)))


def observe(
    candidate: Candidate,
    train_state: steps.TrainState,
    feed: Feed,
    config: RankConfig,
    check: Callable[[], None] | None = None,
) -> EpochRecord:
    """Losses, accuracies and beta_eff of the model as it stands, in inference mode."""
    features, labels = subset_features(candidate, train_state, feed)
    head = candidate.network.head
    head_arrays = train_state.params["head"], train_state.state["head"]
    train = steps.head_sums(head, *head_arrays, features, labels, jnp.ones(len(labels)))
    validation = evaluate(candidate, train_state, feed, check)
    # Dispatch is asynchronous: what is still being evaluated must not count as measurement.
    jax.block_until_ready((train, validation, features))
    start = time.perf_counter()
    beta_eff: measure.Values = {}
    status: measure.Statuses = {}
    if config.head != "linear":
        beta_eff, status = measure.of_probes(train_state.params["head"], features, labels)
    elif candidate.network_sums is not None:
        few = feed.subset(candidate.network_measurement)
        beta_eff, status = measure.of_network(
            candidate.network, train_state, *few, candidate.network_sums
        )
    return EpochRecord(
        epoch=0,
        train_loss=_mean(train.loss, train.samples),
        train_accuracy=_mean(train.correct, train.samples),
        validation_loss=_mean(validation.loss, validation.samples),
        validation_accuracy=_mean(validation.correct, validation.samples),
        beta_eff=beta_eff,
        beta_eff_status=status,
        measure_seconds=time.perf_counter() - start,
    )


def evaluate(
    candidate: Candidate,
    train_state: steps.TrainState,
    feed: Feed,
    check: Callable[[], None] | None = None,
) -> steps.Sums:
    """Summed loss and hits over the validation part, every sample counted once."""
    head = candidate.network.head
    head_arrays = train_state.params["head"], train_state.state["head"]
    total: Any = None
    for chunk in feed.validation(candidate.evaluation_batch):
        for indices, mask in zip(chunk.indices, chunk.mask):
            features = candidate.features(*train_state[:2], jnp.take(chunk.images, indices, axis=0))
            labels = jnp.take(chunk.labels, indices)
            part = steps.head_sums(head, *head_arrays, features, labels, mask)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            if check is not None:
                jax.block_until_ready(total)
                check()
    return total


def subset_features(
    candidate: Candidate, train_state: steps.TrainState, feed: Feed
) -> tuple[jax.Array, jax.Array]:
    """Features (n, width) float32 and labels (n,) of the measurement subset, inference mode."""
    size = len(candidate.measurement)
    batches, _ = batching.padded_batches(size, candidate.evaluation_batch)
    images, labels = feed.subset(candidate.measurement)
    parts = [
        candidate.features(*train_state[:2], jnp.take(images, jnp.asarray(indices), axis=0))
        for indices in batches
    ]
    return jnp.concatenate(parts)[:size], labels


def is_finite(record: EpochRecord) -> bool:
    """Whether the model is still alive: all its losses are finite."""
    losses = [record.train_loss, record.validation_loss]
    if record.running_loss is not None:
        losses.append(record.running_loss)
    return all(math.isfinite(loss) for loss in losses)


def finetune(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    *,
    augment: steps.Augment | None = None,
    on_record: Callable[[EpochRecord], None] = lambda record: None,
    checkpoints: Checkpoints | None = None,
    seen: Sequence[EpochRecord] = (),
    micro_batches: int = 1,
    until: int | None = None,
    check: Callable[[], None] | None = None,
    kept: MutableMapping[str, Candidate] | None = None,
) -> Trajectory:
    """Fine-tune one candidate for `config.epochs` epochs, or up to a pause.

    Args:
        spec: the model.
        feed: the data, on the device or streamed to it.
        config: of the run, checked.
        augment: see `prepare`.
        on_record: called with each record as it is made.
        checkpoints: see `run`.
        seen: the records of an interrupted run, which goes on from the last one's checkpoint.
        micro_batches: see `prepare`.
        until: pause after this epoch, to go on with `seen` and the checkpoints; None: never.
        check: see `run`.
        kept: where candidates that pause leave their compiled functions for the next time.

    Returns:
        The trajectory, with status `ok`, `diverged` if a loss stopped being finite, or `stopped`
        if it pauses.

    Raises:
        WeightsError: see `prepare`.
        OutputError: a checkpoint cannot be written or read.
    """
    start = time.perf_counter() - sum(record.seconds for record in seen)
    records = list(seen)
    after = records[-1].epoch if records else None
    candidate = kept.pop(spec.name, None) if kept is not None else None
    if candidate is None or after is None or candidate.micro_batches != micro_batches:
        candidate = prepare(spec, feed, config, augment, micro_batches)
    for record in run(
        candidate, feed, config, checkpoints=checkpoints, after=after, until=until, check=check
    ):
        records.append(record)
        on_record(record)
    status: Status = "ok" if records[-1].epoch == config.epochs else "stopped"
    message = ""
    if not is_finite(records[-1]):
        status, message = "diverged", divergence(records[-1].epoch, config)
    elif status == "stopped" and kept is not None:
        kept[spec.name] = candidate._replace(
            train_state=blank(candidate.train_state),
            network_sums=jax.device_get(candidate.network_sums),
        )
    return Trajectory(
        spec.name,
        config.head,
        tuple(records),
        status=status,
        message=message,
        seconds=time.perf_counter() - start,
    )


def divergence(epoch: int, config: RankConfig) -> str:
    """What to say of a loss that is not finite after `epoch`, and what may help."""
    said = f"the loss is not finite after epoch {epoch}"
    if epoch:  # training did it
        return f"{said}; a smaller learning_rate may help"
    if config.dtype == "bfloat16":
        return f'{said}, before any training; try dtype="float32"'
    return f"{said}, before any training: its weights do not fit its preprocessing, or are broken"


def _mean(total: jax.Array, count: jax.Array) -> float:
    """Mean over samples and probes as a Python float."""
    return float(np.mean(np.asarray(total, np.float64)) / float(count))
