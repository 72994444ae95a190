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
from ncap_jax.data.feed import Feed
from ncap_jax.data.split import measurement_subset
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import Candidate, FineTuning, Measure, prepare
from ncap_jax.measure.network import Model, accumulate, batches_of
from ncap_jax.measure.probe import as_records, measure_probes
from ncap_jax.options import RankConfig, Recipe
from ncap_jax.types import NETWORK_STRENGTHS, ModelSpec, Statuses, Values
from ncap_jax.zoo import functional

# A batch of a whole network's measurement costs 1.0 to 1.4 training steps of that size for each
# strength, so a fortieth of the samples in two strengths stays under a tenth of an epoch's time.
# Below a batch of 32 a mean over samples says nothing.
NETWORK_SHARE = 40
NETWORK_MINIMUM = 32
NETWORK_BATCH = 64


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
    return FineTuning(candidate, feed, config, make_measure(candidate, feed, config), deadline)


def make_measure(candidate: Candidate, feed: Feed, recipe: Recipe) -> Measure | None:
    """What measures a candidate's beta_eff after every epoch.

    Args:
        candidate: from `ncap_jax.finetune.candidate.prepare`.
        feed: the data.
        recipe: `head` decides what is measured, `measure_size` and `seed` on which samples.

    Returns:
        A function of train state, features and labels; None, with a warning that says why, where
        the kernel cannot treat the network: the fine-tuning itself does not need beta_eff.
    """
    if recipe.head != "linear":
        return _measure_head
    size = network_samples(len(feed.labels), recipe.measure_size)
    samples = measurement_subset(feed.labels, size, recipe.seed)
    image_shape = feed.subset(samples[:1])[0].shape[1:]
    try:
        empty = empty_sums(candidate.network, candidate.train_state, image_shape)
    except errors.KernelError as error:
        warnings.warn(f"{candidate.name}: no whole-network beta_eff: {error}", stacklevel=2)
        return None
    return NetworkMeasure(candidate.network, feed, samples, empty)


def network_samples(num_train: int, measure_size: int) -> int:
    """How many training samples measure a whole network."""
    return min(num_train, measure_size, max(NETWORK_MINIMUM, num_train // NETWORK_SHARE))


def _measure_head(
    train_state: steps.TrainState, features: jax.Array, labels: jax.Array
) -> tuple[Values, Statuses]:
    return measure_probes(train_state.params["head"], features, labels)


@dataclass(frozen=True)
class Classifier:
    """Backbone and linear head as one function; hashable, to be static under `jax.jit`."""

    backbone: functional.Inference
    head: functional.Inference

    def __call__(self, params: Any, state: Any, inputs: jax.Array) -> jax.Array:
        """Logits (batch, num_classes) of preprocessed inputs, inference mode."""
        features = self.backbone(params["backbone"], state["backbone"], inputs)
        return self.head(params["head"], state["head"], features)


@dataclass(frozen=True)
class NetworkMeasure:
    """Measures backbone and linear head together, in `NETWORK_STRENGTHS`; a `Measure`.

    Attributes:
        network: static parts of the candidate.
        feed: the data.
        samples: indices of the training samples.
        empty: from `empty_sums`.
    """

    network: steps.Network
    feed: Feed
    samples: np.ndarray
    empty: line_graph.State

    def __call__(
        self, train_state: steps.TrainState, features: jax.Array, labels: jax.Array
    ) -> tuple[Values, Statuses]:
        """See `Measure`; features and labels are not needed."""
        images, targets = self.feed.subset(self.samples)
        size = min(NETWORK_BATCH, len(targets))
        batches = (
            batch._replace(inputs=_inputs(self.network, batch.inputs))
            for batch in batches_of(images, targets, size)
        )
        model = as_model(self.network, train_state)
        return as_records(beta_eff.from_state(accumulate(self.empty, model, batches)))


def empty_sums(
    network: steps.Network, train_state: steps.TrainState, image_shape: tuple[int, ...]
) -> line_graph.State:
    """The empty accumulator of a whole network's measurement.

    Raises:
        KernelError: the kernel cannot treat the network.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    inputs = jax.eval_shape(partial(_inputs, network), images)
    return kernel.init(*as_model(network, train_state), inputs, NETWORK_STRENGTHS)


def as_model(network: steps.Network, train_state: steps.TrainState) -> Model:
    """The function and its arrays; a linear head is alone on its leading axis of heads."""
    params, state = (
        {**tree, "head": jax.tree.map(lambda leaf: leaf[0], tree["head"])}
        for tree in (train_state.params, train_state.state)
    )
    backbone = functional.Inference(network.backbone, "features")
    return Model(Classifier(backbone, functional.Inference(network.head)), params, state)


def _inputs(network: steps.Network, images: jax.Array) -> jax.Array:
    # The kernel's products are float32 whatever the fine-tuning computes in.
    return network.preprocess(images).astype(jnp.float32)
