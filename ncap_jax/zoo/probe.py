"""What stands on top of a backbone: the neural capacitance probe, or a linear classifier.

The probe (arXiv 2201.04194, section 3.3) is a small multilayer perceptron, drawn at random and
frozen, whose line graph stands in for the whole network's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import options
from ncap_jax.zoo import functional

EPSILON = 1e-5
# Short runs have few steps: the running averages must follow within one epoch of them.
MOMENTUM = 0.9
# Made once: layers that each hold a function of their own would have no two equal definitions.
he_normal = nnx.initializers.he_normal()


class Probe(nnx.Module):
    """(batch, width) -> (batch, num_classes): dense -> batch norm -> ReLU blocks, dense output.

    Args:
        width: feature width of the backbone.
        num_classes: width of the output.
        hidden: widths of the hidden layers, at least three: with fewer, the signed beta_eff is
            zero by construction (softmax and cross-entropy make the output gradients sum to 0).
        rngs: random streams; only `params` is used.
        dtype: compute dtype of the layers, None: that of the input; parameters are float32.

    Raises:
        ConfigError: fewer than three hidden layers, or a width below 1.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        hidden: Sequence[int],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        check_widths(hidden)
        widths = [width, *hidden]
        pairs = list(itertools.pairwise(widths))
        self.dense = nnx.List(
            nnx.Linear(i, o, kernel_init=he_normal, dtype=dtype, rngs=rngs) for i, o in pairs
        )
        self.norm = nnx.List(
            nnx.BatchNorm(o, momentum=MOMENTUM, epsilon=EPSILON, dtype=dtype, rngs=rngs)
            for _, o in pairs
        )
        self.output = nnx.Linear(widths[-1], num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits (batch, num_classes) of features (batch, width)."""
        x = features
        for dense, norm in zip(self.dense, self.norm):
            x = nnx.relu(norm(dense(x)))
        return self.output(x)

    def calibrate(self, features: jax.Array) -> None:
        """Set the running statistics to those of `features` (batch, width), layer by layer."""
        x = features
        for dense, norm in zip(self.dense, self.norm):
            a = dense(x)
            norm.mean[...] = jnp.mean(a, axis=0, dtype=jnp.float32)
            norm.var[...] = jnp.var(a.astype(jnp.float32), axis=0)
            x = nnx.relu(norm(a))


class LinearHead(nnx.Module):
    """(batch, width) -> (batch, num_classes): the classifier of ordinary fine-tuning."""

    def __init__(
        self, width: int, num_classes: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
    ):
        self.output = nnx.Linear(width, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits (batch, num_classes) of features (batch, width)."""
        return self.output(features)


def check_widths(hidden: Sequence[int]) -> None:
    """Refuse a probe that has no neural capacitance.

    Raises:
        ConfigError: fewer than three hidden layers, or a width below 1.
    """
    if not options.HIDDEN_WIDTHS.admits(hidden):
        raise options.HIDDEN_WIDTHS.refuse("probe_widths", tuple(hidden))


@dataclass(frozen=True)
class _Builder:
    """Makes a head; compared by value, so that equal heads are drawn by one program."""

    kind: Callable[..., nnx.Module]
    arguments: tuple[Any, ...]
    dtype: DTypeLike | None

    def __call__(self, rngs: nnx.Rngs) -> nnx.Module:
        return self.kind(*self.arguments, dtype=self.dtype, rngs=rngs)


Stacked = tuple[functional.Functional, functional.Params, functional.State]


def make_probes(
    width: int,
    num_classes: int,
    hidden: Sequence[int] = (256, 128, 64),
    *,
    num_probes: int = 1,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Stacked:
    """Independent probes, their arrays stacked along a leading axis.

    The seed is folded with the probe's number and nothing else, so every backbone of the same
    feature width gets the same probes.

    Args:
        width: feature width of the backbone.
        num_classes: width of the output.
        hidden: hidden widths of each probe.
        num_probes: how many.
        seed: of the weights.
        dtype: compute dtype.

    Returns:
        Definition, params and state with leaves of shape (num_probes, ...).
    """
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in range(num_probes)]
    return functional.draw(_Builder(Probe, (width, num_classes, tuple(hidden)), dtype), keys)


def make_linear_head(
    width: int, num_classes: int, *, seed: int = 0, dtype: DTypeLike | None = None
) -> Stacked:
    """A linear classifier, alone on the leading axis on which probes are stacked.

    Arguments and result as for `make_probes`.
    """
    build = _Builder(LinearHead, (width, num_classes), dtype)
    return functional.draw(build, [jax.random.key(seed)])


def linear_head_shapes(width: int, num_classes: int, *, dtype: DTypeLike | None = None) -> Stacked:
    """As `make_linear_head`, with shapes in place of arrays: nothing is drawn."""
    build = _Builder(LinearHead, (width, num_classes), dtype)
    definition, *arrays = functional.split(functional.build_abstractly(build))
    params, state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), arrays)
    return definition, params, state


class ProbeArrays(NamedTuple):
    """The probe's weights in the kernels' order; every leaf may have a leading axis of probes.

    Attributes:
        kernels: L arrays (n_in, n_out), the output layer last.
        biases: L arrays (n_out,).
        gammas: L - 1 batch-norm scales (n_out,).
        betas: L - 1 batch-norm offsets (n_out,).
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    gammas: tuple[jax.Array, ...]
    betas: tuple[jax.Array, ...]


def probe_arrays(params: functional.Params) -> ProbeArrays:
    """Pick a probe's arrays out of its params."""
    dense = [params["dense"][i] for i in range(len(params["dense"]))] + [params["output"]]
    norm = [params["norm"][i] for i in range(len(params["norm"]))]
    return ProbeArrays(
        tuple(layer["kernel"] for layer in dense),
        tuple(layer["bias"] for layer in dense),
        tuple(layer["scale"] for layer in norm),
        tuple(layer["bias"] for layer in norm),
    )


@functools.partial(jax.jit, static_argnames="definition")
def calibrate(
    definition: functional.Functional,
    params: functional.Params,
    state: functional.State,
    features: jax.Array,
) -> functional.State:
    """Stacked probes' state with running statistics set to those of features (n, width)."""

    def one(p: functional.Params, s: functional.State) -> functional.State:
        module: Any = functional.merge(definition, p, s)
        module.calibrate(features)
        return functional.split(module)[2]

    return jax.vmap(one)(params, state)
