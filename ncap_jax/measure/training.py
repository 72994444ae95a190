"""What measures beta_eff of a candidate under fine-tuning: its probe, or its whole network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import errors
from ncap_jax.capacitance import beta_eff, line_graph
from ncap_jax.capacitance import network as kernel
from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.data.split import measurement_subset
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import Candidate, FineTuning, Measure, prepare
from ncap_jax.measure import epochs
from ncap_jax.measure.network import Batch, Model
from ncap_jax.measure.probe import as_records, compile_probes, measure_probes
from ncap_jax.ops.effort import Effort, Jitted, effort_for
from ncap_jax.options import RankConfig, Recipe
from ncap_jax.types import NETWORK_STRENGTHS, ModelSpec, Statuses, Strength, Values
from ncap_jax.zoo import functional


def start(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    augment: steps.Augment | None = None,
    micro_batches: int = 1,
    deadline: steps.Deadline | None = None,
) -> FineTuning:
    """A candidate with everything that its epochs need, beta_eff's measurement included.

    Arguments and errors as for `ncap_jax.finetune.candidate.prepare` and `FineTuning`.
    """
    candidate = prepare(spec, feed, config, augment, micro_batches)
    measure = make_measure(candidate, feed, config)
    measured = epochs.measured_epochs(config, len(feed.labels))
    return FineTuning(candidate, feed, config, measure, measured, deadline)


def make_measure(candidate: Candidate, feed: Feed, recipe: Recipe) -> Measure | None:
    """What measures a candidate's beta_eff after some or all epochs.

    Args:
        candidate: from `ncap_jax.finetune.candidate.prepare`.
        feed: the data.
        recipe: `head` decides what is measured, `measure_size` and `seed` on which samples, and
            `beta_eff` how often.

    Returns:
        A function of train state, features and labels; None where no epoch is measured.
    """
    runs = epochs.usual_measurements(recipe, len(feed.labels))
    if not runs:
        return None
    if recipe.head != "linear":
        return HeadMeasure(effort_for(runs))
    size = epochs.network_samples(len(feed.labels), recipe.measure_size)
    effort = effort_for(epochs.network_runs(runs, size))
    batches = _batches(feed, size, recipe.seed)
    strengths = epochs.network_strengths(recipe, len(feed.labels))
    return NetworkMeasure(candidate.name, candidate.network, batches, effort, strengths)


def _batches(feed: Feed, size: int, seed: int) -> tuple[Batch, ...]:
    """`size` training samples in batches; the last is padded to the size of the others."""
    samples = measurement_subset(feed.labels, size, seed)
    padded = batching.padded_batches(len(samples), min(epochs.NETWORK_BATCH, len(samples)))
    return tuple(Batch(*feed.subset(samples[indices]), mask) for indices, mask in zip(*padded))


@dataclass(frozen=True)
class HeadMeasure:
    """Measures the probes; a `Measure`.

    Attributes:
        effort: of the program's compilation.
    """

    effort: Effort

    def __call__(
        self, train_state: steps.TrainState, features: np.ndarray, labels: np.ndarray
    ) -> tuple[Values, Statuses]:
        """See `Measure`."""
        return measure_probes(train_state.params["head"], features, labels, effort=self.effort)

    def compile(
        self,
        train_state: steps.TrainState,
        features: jax.ShapeDtypeStruct,
        labels: jax.ShapeDtypeStruct,
    ) -> None:
        """See `Measure`."""
        compile_probes(train_state.params["head"], features, labels, effort=self.effort)


@dataclass(frozen=True)
class Classifier:
    """Backbone and linear head as one function; hashable, to be static under `jax.jit`."""

    backbone: functional.Inference
    head: functional.Inference

    def __call__(self, params: Any, state: Any, inputs: jax.Array) -> jax.Array:
        """Logits (batch, num_classes) of preprocessed inputs, inference mode."""
        features = self.backbone(params["backbone"], state["backbone"], inputs)
        return self.head(params["head"], state["head"], features)


@dataclass
class NetworkMeasure:
    """Measures backbone and linear head together; a `Measure`.

    Where the kernel cannot treat the network, nothing is measured and a warning says why: the
    fine-tuning itself does not need beta_eff.

    Attributes:
        name: of the model.
        network: static parts of the candidate.
        batches: of the training samples that measure; their inputs are uint8 images.
        effort: of the program's compilation.
        strengths: in which it is measured.
        untreatable: whether the kernel has been found unable to treat the network.
    """

    name: str
    network: steps.Network
    batches: tuple[Batch, ...]
    effort: Effort
    strengths: tuple[Strength, ...] = NETWORK_STRENGTHS
    untreatable: bool = False

    def __call__(
        self, train_state: steps.TrainState, features: np.ndarray, labels: np.ndarray
    ) -> tuple[Values, Statuses]:
        """See `Measure`; features and labels are not needed."""
        sums = self._sums_if_treatable(train_state)
        if sums is None:
            return {}, {}
        add, total = add_batch.at(self.effort), None
        if len(self.batches) > 1:  # one program for all batches: it starts with zeros
            total = jax.tree.map(jnp.zeros_like, sums)
        static = self.network, self.strengths
        for batch in self.batches:
            total = add(total, *static, train_state.params, train_state.state, batch)
        return as_records(beta_eff.from_state.at(self.effort)(total))

    def compile(
        self,
        train_state: steps.TrainState,
        features: jax.ShapeDtypeStruct,
        labels: jax.ShapeDtypeStruct,
    ) -> None:
        """See `Measure`."""
        sums = self._sums_if_treatable(train_state)
        if sums is None:
            return
        total = sums if len(self.batches) > 1 else None
        static = self.network, self.strengths
        arrays = train_state.params, train_state.state, self.batches[0]
        add_batch.at(self.effort).lower(total, *static, *arrays).compile()
        beta_eff.from_state.at(self.effort).lower(sums).compile()

    def _sums_if_treatable(self, train_state: steps.TrainState) -> line_graph.State | None:
        """As `sums_of_one`; None, with a warning the first time, where that fails."""
        if self.untreatable:
            return None
        try:
            return self.sums_of_one(train_state)
        except errors.KernelError as error:
            self.untreatable = True
            warnings.warn(f"{self.name}: no whole-network beta_eff: {error}", stacklevel=3)
            return None

    def sums_of_one(self, train_state: steps.TrainState) -> line_graph.State:
        """Shapes of the sums over one batch; traces the program of the first, compiles nothing.

        Raises:
            KernelError: the kernel cannot treat the network.
        """
        shape_of = add_batch.at(self.effort).eval_shape
        arrays = train_state.params, train_state.state, self.batches[0]
        return shape_of(None, self.network, self.strengths, *arrays)


@partial(Jitted, static_argnames=("network", "strengths"))
def add_batch(
    total: line_graph.State | None,
    network: steps.Network,
    strengths: tuple[Strength, ...],
    params: Any,
    state: Any,
    batch: Batch,
) -> line_graph.State:
    """Sums over one batch, added to those of the batches before it."""
    inputs = _inputs(network, batch.inputs)
    model = as_model(network, params, state)
    sums = kernel.measure(*model, inputs, batch.labels, batch.mask, strengths)
    return sums if total is None else jax.tree.map(jnp.add, total, sums)


def as_model(network: steps.Network, params: Any, state: Any) -> Model:
    """The function and its arrays; a linear head is alone on its leading axis of heads."""
    params, state = (
        {**tree, "head": jax.tree.map(lambda leaf: leaf[0], tree["head"])}
        for tree in (params, state)
    )
    backbone = functional.Inference(network.backbone, "features")
    return Model(Classifier(backbone, functional.Inference(network.head)), params, state)


def _inputs(network: steps.Network, images: jax.Array) -> jax.Array:
    # The kernel's products are float32 whatever the fine-tuning computes in.
    return network.preprocess(images).astype(jnp.float32)
