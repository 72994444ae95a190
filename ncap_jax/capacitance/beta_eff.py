"""beta_eff: the quotient, what can be said against it, and the two MLP forms.

    beta_eff = (1' P delta_in) / (1' P 1) = sum_e delta_out(e) delta_in(e) / sum_e delta_in(e)   (2)

In the signed form the denominator can pass through zero, so every value carries a status:

    ok               nothing speaks against the value
    ill_conditioned  sum |P| / |sum P| exceeds `CONDITION_LIMIT`: most of the denominator has
                     cancelled; NaN if it cancelled to exactly 0
    converged        0/0: no weight drives any other (all gradients vanish, or every path is
                     dead); the value is 0, the limit as the gradients vanish
    non_finite       the network's outputs or the sums are NaN or infinite; the value is NaN

The limit is 1e3 for every dtype. Rounding: float32 keeps three to four digits there. Sampling:
with a thousand samples the removal of a single average one changes such a denominator by its own
size, so the number says more about the subset than about the network.

Source: Jiang et al., Neural Capacitance (arXiv 2201.04194).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ncap_jax.capacitance import checks, line_graph
from ncap_jax.capacitance.line_graph import Layer, Sums
from ncap_jax.capacitance.primitives import accumulator
from ncap_jax.types import STRENGTHS, Strength

STATUSES: tuple[str, ...] = ("ok", "ill_conditioned", "converged", "non_finite")
CONDITION_LIMIT = 1e3


@jax.tree_util.register_pytree_node_class
class BetaEff:
    """A scalar with its status; a pytree, so that it passes through `jit` and `vmap`.

    Attributes:
        value: () or, after `vmap`, (...): beta_eff.
        code: same shape, int32: index into `STATUSES`.
        condition: same shape: sum |P| / |sum P|, 1 where nothing cancels, 0 if P = 0.
    """

    def __init__(self, value: Any, code: Any, condition: Any):
        self.value = value
        self.code = code
        self.condition = condition

    def tree_flatten(self):
        """The three arrays are leaves."""
        return (self.value, self.code, self.condition), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        """Rebuilds without looking at the leaves: JAX also passes placeholders."""
        return cls(*leaves)

    @property
    def status(self) -> str | np.ndarray:
        """The status by name; an array of names after `vmap`. Under `jit` look at `code`."""
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


def quotient(sums: Sums) -> BetaEff:
    """Equation (2) with its status, from averaged sums; alpha = 1."""
    # Below the smallest normal number devices differ in what they keep: that is zero for us.
    converged = sums.magnitude <= float(jnp.finfo(sums.magnitude.dtype).tiny)
    scale = jnp.where(converged, 1, sums.magnitude)
    # Both parts are divided by the magnitude, so that small gradients do not underflow when
    # multiplied with one another.
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


@jax.jit
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
    """Checked layers in the dtype of the inputs (float32 at least), inputs and labels."""
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
    that come in batches use `line_graph.init`, `update` and `from_state`.

    Args:
        kernels: L >= 4 matrices W^l (n_in, n_out).
        biases: L vectors b^l (n_out,).
        inputs: (batch, n_0) floating point; the arithmetic is done in its dtype, in float32 if
            that is narrower.
        labels: (batch,) integers 0..n_L - 1.
        strength: `signed` (equation (1)), `absolute`, `squared` or `total`.
        alpha: learning rate; beta_eff is proportional to it (squared: to its square).

    Returns:
        `BetaEff`: `.value`, `.status`, `.condition`; converts to float.

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
    """beta_eff of a probe (dense, batch norm, ReLU; dense) in every strength, in one pass.

    Batch norm's mean and variance are those of the features given, which must therefore be the
    whole measurement set; they are held fixed, as all states are. Forward and backward pass are
    shared by all strengths. Works under `jit` (strengths and epsilon static) and under `vmap`
    over a leading axis of probes, models or seeds.

    Args:
        kernels: L >= 4 matrices W^l (n_in, n_out).
        biases: L vectors b^l (n_out,).
        gammas: L - 1 batch-norm gains (n_out,).
        betas: L - 1 batch-norm offsets (n_out,).
        features: (batch, n_0) floating point.
        labels: (batch,) integers 0..n_L - 1.
        strengths: which forms to measure.
        epsilon: of the batch norm.

    Returns:
        strength -> `BetaEff`, alpha = 1.

    Raises:
        KernelError: shapes, dtypes, labels or values for which beta_eff is not defined.
        ConfigError: unknown strength.
    """
    layers, features, labels = _arrays(kernels, biases, features, labels)
    checks.check_probe(gammas, betas, kernels, strengths)
    gammas = [jnp.asarray(gamma, features.dtype) for gamma in gammas]
    betas = [jnp.asarray(beta, features.dtype) for beta in betas]
    return _measure_probe(layers, gammas, betas, features, labels, tuple(strengths), epsilon)


@partial(jax.jit, static_argnames=("strengths", "epsilon"))
def _measure_probe(layers, gammas, betas, features, labels, strengths, epsilon):
    layers = line_graph.with_batch_statistics(layers, gammas, betas, features, epsilon)
    return _measure(layers, features, labels, strengths)
