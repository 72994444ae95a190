"""beta_eff: the quotient, its status, and the two forms for multilayer perceptrons.

    beta_eff = (1' P delta_in) / (1' P 1) = sum_e delta_out(e) delta_in(e) / sum_e delta_in(e)   (2)

In the signed form the denominator can pass through zero, so every value carries a status:

    ok               no objection to the value
    ill_conditioned  sum |P| / |sum P| exceeds `CONDITION_LIMIT`: the denominator has mostly
                     cancelled; the value is NaN if it cancelled to exactly 0
    converged        0/0: no weight drives any other, because all gradients vanish or every path
                     is dead; the value is 0, its limit as the gradients vanish
    non_finite       the network's outputs or the sums are NaN or infinite; the value is NaN

The limit is 1e3 for every dtype. Rounding: float32 keeps three to four digits there. Sampling:
among a thousand samples, leaving out a single average one changes such a denominator by its own
size, so the number says more about the subset than about the network.

Source: Jiang et al., Neural Capacitance (arXiv 2201.04194).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ncap_jax.capacitance import checks, line_graph
from ncap_jax.capacitance.line_graph import Layer, Sums
from ncap_jax.ops.dtypes import accumulator
from ncap_jax.ops.effort import Jitted
from ncap_jax.types import STRENGTHS, Strength

STATUSES: tuple[str, ...] = ("ok", "ill_conditioned", "converged", "non_finite")
CONDITION_LIMIT = 1e3


@jax.tree_util.register_pytree_node_class
class BetaEff:
    """beta_eff with its status; a pytree, so that it passes through `jit` and `vmap`.

    Attributes:
        value: () or, after `vmap`, (...): beta_eff.
        code: same shape, int32: index into `STATUSES`.
        condition: same shape: sum |P| / |sum P|; 1 where nothing cancels, 0 if P = 0.
    """

    def __init__(self, value: Any, code: Any, condition: Any):
        self.value = value
        self.code = code
        self.condition = condition

    def tree_flatten(self) -> tuple[tuple[Any, Any, Any], None]:
        """The three arrays are the leaves."""
        return (self.value, self.code, self.condition), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Iterable[Any]) -> BetaEff:
        """Rebuild without looking at the leaves: JAX also passes placeholders."""
        return cls(*leaves)

    @property
    def status(self) -> str | np.ndarray:
        """The status by name; an array of names after `vmap`. Under `jit`, read `code`."""
        names = np.array(STATUSES)[np.asarray(self.code)]
        return str(names) if np.ndim(names) == 0 else names

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return format(float(self.value), spec) if spec else repr(self)

    def __repr__(self) -> str:
        if not checks.is_concrete(self.code) or not isinstance(self.code, (Array, np.ndarray)):
            return f"BetaEff(value={self.value}, code={self.code})"
        return f"BetaEff(value={self.value}, status={self.status}, condition={self.condition})"


class BatchNorm(NamedTuple):
    """A probe's batch-norm parameters, (n_out,) for each hidden layer.

    Attributes:
        gammas: the gains.
        betas: the offsets.
    """

    gammas: list[Array]
    betas: list[Array]


def quotient(sums: Sums) -> BetaEff:
    """Equation (2) with its status, from averaged sums; alpha = 1."""
    # Devices differ in what they keep below the smallest normal number: it counts as zero.
    converged = sums.magnitude <= float(jnp.finfo(sums.magnitude.dtype).tiny)
    scale = jnp.where(converged, 1, sums.magnitude)
    # Both parts are divided by the magnitude: products of small gradients would underflow.
    numerator = sum(jnp.sum(sums.delta_in[n] / scale * d) for n, d in sums.delta_out.items())
    denominator = sums.total / scale
    finite = jnp.isfinite(numerator) & jnp.isfinite(denominator)
    condition = 1 / jnp.abs(denominator)
    code = jnp.where(condition > CONDITION_LIMIT, STATUSES.index("ill_conditioned"), 0)
    code = jnp.where(converged, STATUSES.index("converged"), code)
    code = jnp.where(finite, code, STATUSES.index("non_finite")).astype(jnp.int32)
    value = jnp.where(denominator == 0, jnp.nan, numerator / denominator)
    value = jnp.where(converged & finite, 0, jnp.where(finite, value, jnp.nan))
    return BetaEff(value, code, jnp.where(converged, 0, condition))


@Jitted
def from_state(state: line_graph.State) -> dict[str, BetaEff]:
    """beta_eff of every strength in a `line_graph` accumulator, for alpha = 1."""
    return {name: quotient(sums) for name, sums in line_graph.finalise(state).items()}


@partial(jax.jit, static_argnames="strengths")
def _measure(
    layers: Sequence[Layer], inputs: Array, labels: Array, strengths: tuple[Strength, ...]
) -> dict[str, BetaEff]:
    empty = line_graph.init(layers, strengths)
    return from_state(line_graph.update(empty, layers, inputs, labels))


def _arrays(
    kernels: Sequence[Any], biases: Sequence[Any], inputs: Any, labels: Any
) -> tuple[list[Layer], Array, Array]:
    """Checked layers, inputs and labels, in the dtype of the inputs (at least float32)."""
    kernels, biases = [jnp.asarray(k) for k in kernels], [jnp.asarray(b) for b in biases]
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    checks.check_mlp(kernels, biases, inputs, labels)
    dtype = accumulator(inputs.dtype)
    layers = [Layer(k.astype(dtype), b.astype(dtype)) for k, b in zip(kernels, biases)]
    return layers, inputs.astype(dtype), labels


def mlp_beta_eff(
    kernels: Sequence[Any],
    biases: Sequence[Any],
    inputs: Any,
    labels: Any,
    strength: Strength = "signed",
    alpha: float = 1.0,
) -> BetaEff:
    """beta_eff of a plain multilayer perceptron: ReLU, softmax, cross-entropy.

    Works under `jit`, `vmap` and sharding; values are checked where they are concrete. For data
    in batches use `line_graph.init`, `line_graph.update` and `from_state`.

    Args:
        kernels: L >= 4 matrices W^l (n_in, n_out).
        biases: L vectors b^l (n_out,).
        inputs: (batch, n_0) floating point; the arithmetic is done in its dtype, or in float32
            if that is wider.
        labels: (batch,) integers 0..n_L - 1.
        strength: `signed` (equation (1)), `absolute`, `squared` or `total`.
        alpha: learning rate; beta_eff is proportional to it (`squared`: to its square).

    Returns:
        `BetaEff` with `.value`, `.status` and `.condition`; converts to float.

    Raises:
        KernelError: shapes, dtypes, labels or values for which beta_eff is not defined.
        ConfigError: unknown strength.
    """
    checks.check_strengths([strength])
    layers, inputs, labels = _arrays(kernels, biases, inputs, labels)
    result = _measure(layers, inputs, labels, (strength,))[strength]
    return BetaEff(
        result.value * alpha ** line_graph.POWER[strength], result.code, result.condition
    )


def probe_beta_eff(
    kernels: Sequence[Any],
    biases: Sequence[Any],
    gammas: Sequence[Any],
    betas: Sequence[Any],
    features: Any,
    labels: Any,
    strengths: Sequence[Strength] = STRENGTHS,
    epsilon: float = 1e-5,
) -> dict[str, BetaEff]:
    """beta_eff of a probe (dense, batch norm, ReLU; then dense) in every strength, in one pass.

    Batch norm uses the mean and variance of the features given, which must therefore be the
    whole measurement set; both are held fixed, as all states are. All strengths share one forward
    and one backward pass. Works under `jit` (strengths and epsilon static) and under `vmap` over
    a leading axis of probes, models or seeds.

    Args:
        kernels: L >= 4 matrices W^l (n_in, n_out).
        biases: L vectors b^l (n_out,).
        gammas: L - 1 batch-norm gains (n_out,).
        betas: L - 1 batch-norm offsets (n_out,).
        features: (batch, n_0) floating point.
        labels: (batch,) integers 0..n_L - 1.
        strengths: which forms to measure.
        epsilon: what batch norm adds to the variance.

    Returns:
        strength -> `BetaEff`, alpha = 1.

    Raises:
        KernelError: shapes, dtypes, labels or values for which beta_eff is not defined.
        ConfigError: unknown strength.
    """
    layers, features, labels = _arrays(kernels, biases, features, labels)
    checks.check_probe(gammas, betas, kernels, strengths)
    norm = BatchNorm(
        [jnp.asarray(gamma, features.dtype) for gamma in gammas],
        [jnp.asarray(beta, features.dtype) for beta in betas],
    )
    return _measure_probe(layers, norm, features, labels, tuple(strengths), epsilon)


@partial(jax.jit, static_argnames=("strengths", "epsilon"))
def _measure_probe(
    layers: Sequence[Layer],
    norm: BatchNorm,
    features: Array,
    labels: Array,
    strengths: tuple[Strength, ...],
    epsilon: float,
) -> dict[str, BetaEff]:
    layers = line_graph.with_batch_statistics(layers, *norm, features, epsilon)
    return _measure(layers, features, labels, strengths)
