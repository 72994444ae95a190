"""Random small networks with data, and multilayer perceptrons as functions, for the kernels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ncap_jax.capacitance import beta_eff, network
from ncap_jax.capacitance.beta_eff import BetaEff
from ncap_jax.types import Strength


class Net(NamedTuple):
    """An MLP with folded batch norm, and a batch for it."""

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    scales: list[np.ndarray]
    shifts: list[np.ndarray]
    inputs: np.ndarray
    labels: np.ndarray

    @property
    def plain(self) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
        """The arguments of `mlp_beta_eff`."""
        return self.kernels, self.biases, self.inputs, self.labels


def random_net(
    seed: int, widths: Sequence[int], batch: int, bias: float = 0.3, *, plain: bool = True
) -> Net:
    """Gaussian weights in float64; without `plain` the scales are of both signs."""
    rng = np.random.default_rng(seed)
    kernels = [rng.normal(size=(m, n)) for m, n in itertools.pairwise(widths)]
    biases = [bias * rng.normal(size=n) for n in widths[1:]]
    hidden = widths[1:-1]
    scales = [np.ones(n) if plain else rng.normal(size=n) for n in hidden]
    shifts = [np.zeros(n) if plain else 0.5 * rng.normal(size=n) for n in hidden]
    inputs = rng.normal(size=(batch, widths[0]))
    labels = rng.integers(0, widths[-1], size=batch).astype(np.int32)
    return Net(kernels, biases, scales, shifts, inputs, labels)


class Case(NamedTuple):
    """What `network.measure` takes beside the model."""

    params: Any
    constants: Any
    inputs: Array
    labels: Array


def perceptron(params: Any, constants: Any, x: Array) -> Array:
    """A plain MLP; the constant is an offset of its logits."""
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None, :])
    kernel, bias = params[-1]
    return x @ kernel + bias[None, :] + constants


def perceptron_case(seed: int = 0, batch: int = 9, dtype: Any = np.float64) -> Case:
    """Parameters and data for `perceptron`, with widths 4, 5, 4, 6, 3."""
    net = random_net(seed, (4, 5, 4, 6, 3), batch)
    params = [
        (jnp.asarray(k, dtype), jnp.asarray(b, dtype)) for k, b in zip(net.kernels, net.biases)
    ]
    offset, inputs = jnp.zeros((1, 3), dtype), jnp.asarray(net.inputs, dtype)
    return Case(params, offset, inputs, jnp.asarray(net.labels))


def with_middle(middle: Callable[[Array, Array], Array]) -> network.Apply:
    """A perceptron without biases whose third layer is `middle(activation, kernel)`."""

    def apply(params: Any, constants: Any, x: Array) -> Array:
        del constants
        (a, _), (b, _), (c, _), (d, _) = params
        x = middle(jax.nn.relu(jax.nn.relu(x @ a) @ b), c)
        return jax.nn.relu(x) @ d

    return apply


# Jitted: evaluated one by one, the operations' compilations would take most of the time.
measured = jax.jit(network.measure, static_argnames=("apply", "strengths", "every_edge"))


@partial(jax.jit, static_argnames=("apply", "strengths"))
def network_values(
    apply: network.Apply,
    params: Any,
    constants: Any,
    inputs: Array,
    labels: Array,
    strengths: tuple[Strength, ...] = network.STRENGTHS,
) -> dict[str, BetaEff]:
    """beta_eff of a whole network."""
    state = network.measure(apply, params, constants, inputs, labels, strengths=strengths)
    return beta_eff.from_state(state)
