"""A candidate made ready for fine-tuning: backbone with weights, head, compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.data import batching
from ncap_jax.data.feed import Feed
from ncap_jax.finetune import measure, parallel, rates, statistics, steps
from ncap_jax.finetune.config import make_optimizer
from ncap_jax.types import ModelSpec, RankConfig
from ncap_jax.zoo import functional, load_model, preprocess, probe

EVALUATION_BATCH = 256


class Candidate(NamedTuple):
    """A model ready to be fine-tuned: static parts, compiled functions, arrays.

    `measurement` holds the training samples that measure the training loss and the probe's
    beta_eff, `network_measurement` those that measure the whole network's, which starts from
    `network_sums` (None: not measured). `micro_batches`: parts that a batch is taken in.
    `mesh`: devices that a batch is divided over (`parallel`). `rates`: learning rates to try.
    """

    network: steps.Network
    train_state: steps.TrainState
    epoch: Callable
    features: Callable
    measurement: np.ndarray
    network_measurement: np.ndarray
    network_sums: Any = None
    micro_batches: int = 1
    mesh: Any = None
    rates: tuple[float, ...] = ()

    @property
    def evaluation_batch(self) -> int:
        """Samples at a time in inference mode; the results do not depend on it."""
        devices = 1 if self.mesh is None else self.mesh.size
        return -(-max(1, EVALUATION_BATCH // self.micro_batches) // devices) * devices


def prepare(
    spec: ModelSpec,
    feed: Feed,
    config: RankConfig,
    augment: steps.Augment | None = None,
    micro_batches: int = 1,
) -> Candidate:
    """Build a candidate: backbone with weights, head, optimizer, compiled functions.

    Args:
        spec: the model; its weights are read unless the configuration asks for random ones.
        feed: the data, on the device or streamed to it.
        config: of the run, checked.
        augment: (key, uint8 batch) -> uint8 batch, applied in training only.
        micro_batches: parts that a batch is taken in (`steps.accumulated`), to save memory.

    Raises:
        WeightsError: the weights are missing, damaged or of another architecture.
    """
    dtype = jnp.dtype(config.dtype)
    weights = "pretrained" if config.weights == "pretrained" else None
    read = partial(
        load_model, spec, weights, weights_dir=config.weights_dir, seed=config.seed, dtype=dtype
    )
    backbone = parallel.all_do(read)
    statistics.limit_memory(backbone, batching.steps_per_epoch(len(feed.labels), config.batch_size))
    definition, params, state = functional.split(backbone)
    head, head_params, head_state = probe.make_head(
        config.head,
        spec.feature_width,
        feed.num_classes,
        hidden=config.probe_widths,
        num_probes=config.num_probes,
        seed=config.seed if config.head == "linear" else config.probe_seed,
        dtype=dtype,
    )
    size = config.input_size or spec.input_size
    network = steps.Network(
        definition,
        head,
        partial(preprocess.preprocess, mode=spec.preprocessing, size=size, dtype=dtype),
        steps.trained_parts(config.head),
    )
    optimizer = make_optimizer(config)
    all_params = {"backbone": params, "head": head_params}
    moments = optimizer.init({part: all_params[part] for part in network.trained})
    train_state = steps.TrainState(all_params, {"backbone": state, "head": head_state}, moments)
    # Donation frees the caller's buffers, and equal leaves may share one: give each its own.
    mesh = parallel.make_mesh(config)
    train_state = parallel.replicate(mesh, jax.tree.map(jnp.array, train_state))
    divide, placement = parallel.divider(mesh), parallel.replicated(mesh)
    step = steps.make_train_step(network, optimizer, augment, micro_batches, divide)
    epoch = steps.make_epoch(step, scan=jax.default_backend() != "cpu", placement=placement)
    features = steps.make_features(network, divide, placement)
    subset = batching.measurement_subset(feed.labels, config.measure_size, config.seed)
    few, empty = subset[:0], None
    if config.head == "linear":
        shape = feed.subset(subset[:1])[0].shape[1:]
        size = measure.network_samples(len(feed.labels), config.measure_size)
        few = batching.measurement_subset(feed.labels, size, config.seed)
        empty = measure.empty_network_sums(network, train_state, shape, spec.name)
    return Candidate(
        network,
        train_state,
        epoch,
        features,
        subset,
        few,
        empty,
        micro_batches,
        mesh,
        rates.of(spec, config),
    )


def blank(train_state: steps.TrainState) -> steps.TrainState:
    """A state of the same structure that holds no memory of the device: a template to restore."""

    def zeros(leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=jax.random.key_impl(leaf)), leaf.shape)
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, train_state)
