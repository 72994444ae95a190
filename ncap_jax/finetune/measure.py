"""beta_eff of a model under fine-tuning, as the records hold it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import errors
from ncap_jax.capacitance import beta_eff as kernels
from ncap_jax.capacitance import network as whole
from ncap_jax.data import batching
from ncap_jax.finetune import steps
from ncap_jax.types import NETWORK_STRENGTHS, STRENGTHS
from ncap_jax.zoo import functional
from ncap_jax.zoo import probe as probes

Values = dict[str, tuple[float, ...]]
Statuses = dict[str, tuple[str, ...]]

# A batch of a whole network's measurement costs 1.0 to 1.4 training steps of that size for each
# strength, so a fortieth of the samples in two strengths stays under a tenth of an epoch's time.
# Below a batch of 32 a mean over samples says nothing.
NETWORK_SHARE = 40
NETWORK_MINIMUM = 32
NETWORK_BATCH = 64


@dataclass(frozen=True)
class WholeNetwork:
    """Backbone and linear head as one function; hashable, to be static under `jax.jit`."""

    backbone: functional.Functional
    head: functional.Functional

    def __call__(self, params: Any, state: Any, inputs: jax.Array) -> jax.Array:
        """Logits (batch, num_classes) of preprocessed inputs, inference mode."""
        features, _ = functional.apply(
            self.backbone, params["backbone"], state["backbone"], inputs, train=False
        )
        logits, _ = functional.apply(
            self.head, params["head"], state["head"], features, train=False, method="__call__"
        )
        return logits


def network_samples(num_train: int, measure_size: int) -> int:
    """How many training samples measure a whole network."""
    return min(num_train, measure_size, max(NETWORK_MINIMUM, num_train // NETWORK_SHARE))


def of_probes(params: Any, features: jax.Array, labels: jax.Array) -> tuple[Values, Statuses]:
    """beta_eff of every probe in every strength.

    The probe's batch-norm statistics are taken over the measurement set itself.

    Args:
        params: the stacked probes' params.
        features: (n, width) float32 of the measurement subset.
        labels: (n,) int32.
    """
    return _as_records(_probes(probes.probe_arrays(params), features, labels))


def of_network(
    network: steps.Network,
    train_state: steps.TrainState,
    images: jax.Array,
    labels: jax.Array,
    empty: whole.State,
) -> tuple[Values, Statuses]:
    """beta_eff of backbone and linear head together, in `NETWORK_STRENGTHS`.

    Args:
        network: static parts.
        train_state: the model as it stands.
        images: (n, height, width, channels) uint8.
        labels: (n,) int32.
        empty: from `empty_network_sums`.
    """
    apply, params, state = _whole(network, train_state)
    size = min(NETWORK_BATCH, len(labels))
    sums = jax.tree.map(jnp.zeros_like, empty)  # a copy, for `update` consumes it
    for indices, mask in zip(*batching.padded_batches(len(labels), size)):
        batch = _inputs(network, images[indices])
        sums = whole.update(sums, apply, params, state, batch, labels[indices], mask)
    return _as_records(kernels.from_state(sums))


def empty_network_sums(
    network: steps.Network, train_state: steps.TrainState, image_shape: tuple[int, ...], name: str
) -> whole.State | None:
    """The empty accumulator of a whole network's measurement; traced once for a run.

    None, with a warning that says why, where the kernel cannot treat the model: the fine-tuning
    itself needs no beta_eff and goes on without it.
    """
    apply, params, state = _whole(network, train_state)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    try:
        inputs = jax.eval_shape(partial(_inputs, network), images)
        return whole.init(apply, params, state, inputs, NETWORK_STRENGTHS)
    except errors.KernelError as error:
        warnings.warn(f"{name}: no whole-network beta_eff: {error}", stacklevel=2)
        return None


def _whole(
    network: steps.Network, train_state: steps.TrainState
) -> tuple[WholeNetwork, dict[str, Any], dict[str, Any]]:
    """The function and its arrays; a linear head is alone on its leading axis of heads."""
    params, state = (
        {**tree, "head": jax.tree.map(lambda leaf: leaf[0], tree["head"])}
        for tree in (train_state.params, train_state.state)
    )
    return WholeNetwork(network.backbone, network.head), params, state


def _inputs(network: steps.Network, images: jax.Array) -> jax.Array:
    # The kernel's products are float32 whatever the fine-tuning computes in.
    return network.preprocess(images).astype(jnp.float32)


def _as_records(results: Mapping[str, kernels.BetaEff]) -> tuple[Values, Statuses]:
    values = {
        strength: tuple(np.atleast_1d(np.asarray(result.value, np.float64)).tolist())
        for strength, result in results.items()
    }
    statuses = {s: tuple(np.atleast_1d(r.status).tolist()) for s, r in results.items()}
    return values, statuses


@jax.jit
def _probes(arrays: probes.ProbeArrays, features, labels):
    one = functools.partial(
        kernels.probe_beta_eff,
        features=features,
        labels=labels,
        strengths=STRENGTHS,
        epsilon=probes.EPSILON,
    )
    return jax.vmap(lambda a: one(a.kernels, a.biases, a.gammas, a.betas))(arrays)
