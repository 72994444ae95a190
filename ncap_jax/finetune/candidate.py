"""A candidate ready for fine-tuning: its static program, its arrays, and what measures it."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import distributed
from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.data.split import measurement_subset
from ncap_jax.finetune import batch_norm, learning_rates, mesh, steps
from ncap_jax.finetune.optimizers import optimizer_of
from ncap_jax.ops.dtypes import is_key
from ncap_jax.ops.effort import Effort, effort_for
from ncap_jax.options import USUAL_EPOCHS, RankConfig
from ncap_jax.types import ModelSpec, Statuses, Values
from ncap_jax.zoo import functional, load_model, probe, shapes
from ncap_jax.zoo.preprocess import Preprocess

EVALUATION_BATCH = 128
# Parameters from which compiling costs about the same at both efforts, and a step takes long
# (docs/results/compile-effort.md).
LARGE = 1_000_000


@dataclass(frozen=True)
class Candidate:
    """A model ready to be fine-tuned.

    Attributes:
        name: of the model.
        program: the static parts of its training step.
        train_state: its arrays; donated by the first step.
        measurement: indices of the training samples that measure the training loss and the
            probe's beta_eff.
        rates: learning rates to try.
    """

    name: str
    program: steps.Program
    train_state: steps.TrainState
    measurement: np.ndarray
    rates: tuple[float, ...]

    @property
    def network(self) -> steps.Network:
        """Backbone, head and preprocessing, static."""
        return self.program.network

    @property
    def evaluation_batch(self) -> int:
        """Samples at a time in inference mode; the results do not depend on it."""
        devices = 1 if self.program.mesh is None else self.program.mesh.size
        return -(-max(1, EVALUATION_BATCH // self.program.micro_batches) // devices) * devices


class Measure(Protocol):
    """Measures beta_eff of a candidate in its present state (`ncap_jax.measure.training`)."""

    def __call__(
        self, train_state: steps.TrainState, features: np.ndarray, labels: np.ndarray
    ) -> tuple[Values, Statuses]:
        """Values and statuses.

        Args:
            train_state: the model.
            features: (n, width) float32 of the candidate's `measurement` samples.
            labels: (n,) int32.
        """

    def compile(
        self,
        train_state: steps.TrainState,
        features: jax.ShapeDtypeStruct,
        labels: jax.ShapeDtypeStruct,
    ) -> None:
        """Compile what a call with arrays of these shapes runs."""


@dataclass(frozen=True)
class FineTuning:
    """A candidate with everything that its epochs need.

    Attributes:
        candidate: from `prepare`.
        feed: the data, on the device or streamed to it.
        config: of the run.
        measure: of beta_eff; None: not measured.
        measured: the epochs after which it is; None: all. 0 is before training.
        deadline: called between steps and between batches of evaluation; an exception that it
            raises ends the run.
        others: the same model on further splits of the data, with as many images in each part;
            what is recorded are means over all splits.
        after: the epoch after which the candidate's arrays are its state; None: before the first.
    """

    candidate: Candidate
    feed: Feed
    config: RankConfig
    measure: Measure | None = None
    measured: Container[int] | None = None
    deadline: steps.Deadline | None = None
    others: tuple[FineTuning, ...] = ()
    after: int | None = None

    @property
    def splits(self) -> tuple[FineTuning, ...]:
        """The model on every split, this one first."""
        return (self, *self.others)

    def is_measured(self, epoch: int) -> bool:
        """Whether beta_eff is to be measured after an epoch."""
        return self.measure is not None and (self.measured is None or epoch in self.measured)

    def until(self, deadline: steps.Deadline | None) -> FineTuning:
        """The same with another deadline, on every split."""
        others = tuple(other.until(deadline) for other in self.others)
        return dataclasses.replace(self, deadline=deadline, others=others)

    def paused(self, epoch: int, states: Sequence[steps.TrainState]) -> FineTuning:
        """The same in its states after an epoch, one per split, without a deadline."""
        first, *others = (
            dataclasses.replace(
                split, candidate=dataclasses.replace(split.candidate, train_state=state)
            )
            for split, state in zip(self.splits, states, strict=True)
        )
        held = dataclasses.replace(first, others=tuple(others), after=epoch)
        return held.until(None)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of its states, on all splits."""
        states = [split.candidate.train_state for split in self.splits]
        return sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(states))


def prepare(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    augment: steps.Augment | None = None,
    micro_batches: int = 1,
) -> Candidate:
    """Build a candidate: backbone with weights, head, optimizer state.

    Args:
        spec: the model; its weights are read unless the configuration asks for random ones.
        feed: the data, on the device or streamed to it.
        config: of the run, checked.
        augment: (key, uint8 batch) -> uint8 batch, applied in training only; must be hashable.
        micro_batches: parts in which a batch is taken (`steps.accumulated`), to save memory.

    Raises:
        WeightsError: the weights are missing, damaged or of another architecture.
    """
    network, params, state = _build(spec, feed, config)
    optimizer = optimizer_of(config)
    moments = optimizer.start({part: params[part] for part in network.trained})
    # Donation frees the caller's buffers, and equal leaves may share one: each gets its own, by way
    # of the host, because a copy on the device is a program for every shape.
    train_state = jax.tree.map(_placed, steps.TrainState(params, state, moments))
    devices = mesh.make_mesh(config.mesh)
    return Candidate(
        name=spec.name,
        program=steps.Program(
            network, optimizer, augment, micro_batches, devices, _effort(params, feed, config)
        ),
        train_state=mesh.replicate(devices, train_state),
        measurement=measurement_subset(feed.labels, config.measure_size, config.seed),
        rates=learning_rates.rates_to_try(spec, config),
    )


def _placed(leaf: Any) -> jax.Array:
    """A copy of an array, or of random keys, in a buffer of its own."""
    if is_key(leaf):
        return jax.random.clone(leaf)
    # Without aliasing: the memory that NumPy owns cannot be donated.
    return jax.device_put(np.asarray(leaf), may_alias=False)


def _effort(params: Any, feed: Feed, config: RankConfig) -> Effort:
    """For the training step, by its runs, and for evaluation, which runs less but takes longer.

    Never the least: a handful of steps is not worth another program than a longer run has. The
    run's own number of epochs does not count: with it a run that grows would round differently. A
    step of a large network is so long that the full effort pays within a few of them.
    """
    if sum(leaf.size for leaf in jax.tree.leaves(params)) >= LARGE:
        return "full"
    runs = USUAL_EPOCHS * batching.steps_per_epoch(len(feed.labels), config.batch_size)
    return "full" if effort_for(runs) == "full" else "some"


def _build(
    spec: ModelSpec, feed: Feed, config: RankConfig
) -> tuple[steps.Network, dict[str, Any], dict[str, Any]]:
    """The static network, its parameters and its state, each by part."""
    dtype = jnp.dtype(config.dtype)
    read = partial(
        load_model,
        spec,
        config.weights,
        weights_dir=config.weights_dir,
        seed=config.seed,
        dtype=dtype,
    )
    backbone = distributed.on_every(read)
    epoch_steps = batching.steps_per_epoch(len(feed.labels), config.batch_size)
    batch_norm.limit_memory(backbone, epoch_steps)
    definition, params, state = functional.split(backbone)
    size = config.input_size or spec.input_size
    width = spec.feature_width or shapes.feature_width(backbone, size)
    head, head_params, head_state = _make_head(width, feed.num_classes, config)
    network = steps.Network(
        definition,
        head,
        Preprocess(spec.preprocessing, size, dtype),
        steps.trained_parts(config.head),
    )
    return (
        network,
        {"backbone": params, "head": head_params},
        {"backbone": state, "head": head_state},
    )


def _make_head(width: int, num_classes: int, config: RankConfig) -> probe.Stacked:
    """What stands on a backbone of this feature width."""
    dtype = jnp.dtype(config.dtype)
    if config.head == "linear":
        return probe.make_linear_head(width, num_classes, seed=config.seed, dtype=dtype)
    return probe.make_probes(
        width,
        num_classes,
        config.probe_widths,
        num_probes=config.num_probes,
        seed=config.probe_seed,
        dtype=dtype,
    )
