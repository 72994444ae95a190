"""The one place where Flax modules become pure functions and back.

A module is split once into a static graph definition (one for training mode, one for inference
mode) and two pytrees of arrays: `params` (everything of type `nnx.Param`) and `state` (all the
rest: batch statistics, random streams). `apply` merges them inside plain `jax.jit`, `jax.vmap`
or `jax.lax.scan`, runs a method, and returns the new state *explicitly*. Called on the module
itself, plain `jax.jit` would silently lose the batch-norm updates; `nnx.jit` keeps them at about
0.7 ms a call, this at about 0.04 ms.

Two modules of one architecture have equal definitions, whatever their weights. A jitted function
that takes the definition as a static argument is therefore compiled once for all of them.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.ops.effort import Jitted

Params = Any
State = Any


class Functional:
    """The static halves of a module: a static argument of `jax.jit`, or safe to close over.

    Compared by value. A jitted function hashes and compares its static arguments at every call,
    which for the graph of a deep network takes milliseconds: here the hash is computed once, and
    one and the same object is equal to itself without a look inside. `shared` sees to it that
    equal definitions are one object.

    Attributes:
        train: the graph in training mode.
        inference: the graph in inference mode.
    """

    __slots__ = ("__weakref__", "_hash", "inference", "train")

    def __init__(self, train: nnx.GraphDef, inference: nnx.GraphDef):
        self.train = train
        self.inference = inference
        self._hash = hash((train, inference))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Functional):
            return NotImplemented
        # Unequal hashes settle it; only equal ones call for a comparison of the graphs.
        return (
            self._hash == other._hash
            and self.train == other.train
            and self.inference == other.inference
        )

    def __reduce__(self) -> tuple[type[Functional], tuple[nnx.GraphDef, nnx.GraphDef]]:
        # Hashes of strings and functions differ from process to process: computed afresh there.
        return type(self), (self.train, self.inference)

    def __repr__(self) -> str:
        return f"Functional({self.inference.nodes[0]!r}, ...)"


# The first of all equal definitions that is still in use. Held weakly: a definition can hold on to
# a model of another library with all its arrays.
_FIRST: weakref.WeakKeyDictionary[Functional, weakref.ref[Functional]] = weakref.WeakKeyDictionary()
_FIRST_LOCK = threading.Lock()


def shared(definition: Functional) -> Functional:
    """The first definition equal to this one that is still in use; this one if there is none.

    With the same object a cache of compiled programs is looked up by identity. `split` returns
    shared definitions already.
    """
    with _FIRST_LOCK:
        reference = _FIRST.get(definition)
        first = None if reference is None else reference()
        if first is None:
            _FIRST[definition] = weakref.ref(definition)
            return definition
        return first


@dataclass(frozen=True)
class Inference:
    """A method of a module in inference mode, as a pure function of arrays.

    Hashable and compared by value, so that it can be a static argument of `jax.jit`.

    Attributes:
        definition: of the module.
        method: the name of a method of one array argument.
    """

    definition: Functional
    method: str = "__call__"

    def __call__(self, params: Params, state: State, x: jax.Array) -> jax.Array:
        """The method's value; in inference mode the state stays as it is."""
        y, _ = apply(self.definition, params, state, x, train=False, method=self.method)
        return y


def as_function(module: nnx.Module, method: str = "__call__") -> tuple[Inference, Params, State]:
    """A module's method in inference mode as a pure function, with the arrays it takes.

    Args:
        module: any `nnx.Module`; it keeps its own mode and arrays.
        method: of one array argument.

    Returns:
        The function (params, state, x) -> y, `params` and `state`.
    """
    definition, params, state = split(nnx.clone(module))  # `split` switches modes
    return Inference(definition, method), params, state


# What a builder that looks at its own random numbers raises when they are abstract.
_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


def build_abstractly(build: Callable[..., nnx.Module]) -> nnx.Module:
    """A module of shapes alone: nothing is drawn, nothing compiled.

    Args:
        build: called with `rngs`.
    """

    def counted_on_the_host() -> nnx.Module:
        rngs = nnx.Rngs(0)
        # A traced count is set with `getattr(count, "sharding", None)`, for which JAX describes
        # the whole trace so far in an error: time quadratic in depth, most of a ResNet's build.
        for _, count in nnx.to_flat_state(nnx.state(rngs, nnx.RngCount)):
            count.set_value(np.zeros((), np.uint32))
        return build(rngs=rngs)

    return nnx.eval_shape(counted_on_the_host)


def build_to_fill(build: Callable[..., nnx.Module], seed: int) -> nnx.Module:
    """A module whose weights are about to be overwritten: shapes only, no random numbers.

    Drawing them would compile an operation for every shape, which for a deep network takes far
    longer than reading its weights. Random streams (dropout's) are real. A builder that cannot
    run on shapes alone is run as it is.

    Args:
        build: called with `rngs`.
        seed: of the random streams.
    """
    try:
        module = build_abstractly(build)
    except _NEEDS_VALUES:
        return build(rngs=nnx.Rngs(seed))
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.RngState)):
        if isinstance(leaf, nnx.RngKey):
            number = zlib.crc32(".".join(map(str, path)).encode())
            leaf.set_value(jax.random.fold_in(jax.random.key(seed), number))
        else:
            leaf.set_value(jnp.zeros(leaf.shape, leaf.dtype))
    return module


def split(module: nnx.Module) -> tuple[Functional, Params, State]:
    """Split a module into its static definition and its arrays.

    Args:
        module: any `nnx.Module`; left in inference mode.

    Returns:
        The definition (`shared`), `params` (plain nested dict of arrays) and `state` (likewise).
    """
    module.train()
    train, *_ = nnx.split(module, nnx.Param, ...)
    module.eval()
    inference, *arrays = nnx.split(module, nnx.Param, ...)
    params, state = map(nnx.to_pure_dict, arrays)
    return shared(Functional(train, inference)), params, state


def merge(
    functional: Functional, params: Params, state: State, *, train: bool = False
) -> nnx.Module:
    """Rebuild a module that owns copies of the arrays."""
    graphdef = functional.train if train else functional.inference
    return nnx.merge(graphdef, nnx.State(params), nnx.State(state), copy=True)


def apply(
    functional: Functional,
    params: Params,
    state: State,
    x: jax.Array,
    *,
    train: bool,
    method: str = "features",
) -> tuple[jax.Array, State]:
    """Run one method of the module as a pure function.

    Args:
        functional: from `split`.
        params: parameters.
        state: batch statistics and the like.
        x: the method's input.
        train: training mode (batch statistics of `x`, running averages updated) or inference.
        method: `features` or `__call__` or any method of one array argument.

    Returns:
        The method's value, and the state after the call (unchanged arrays in inference mode).
    """
    module = merge(functional, params, state, train=train)
    y = getattr(module, method)(x)
    return y, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))


def draw(
    build: Callable[..., nnx.Module], keys: Sequence[jax.Array]
) -> tuple[Functional, Params, State]:
    """Modules of one architecture with random parameters, stacked along a new leading axis.

    All numbers of a module are drawn by one program, compiled cheaply: one for each operation and
    shape takes longer than anything else about a small module.

    Args:
        build: called with `rngs`; hashable, because equal builders share the program. The module
            must have no random stream of its own, such as dropout's.
        keys: of each module.

    Returns:
        The definition, and params and state, NumPy arrays.
    """
    definition, *_ = split(build_abstractly(build))
    drawn = [jax.device_get(_draw.at("least")(build, key)) for key in keys]
    params, state = (jax.tree.map(lambda *leaves: np.stack(leaves), *part) for part in zip(*drawn))
    return definition, params, state


@partial(Jitted, static_argnames="build")
def _draw(build: Callable[..., nnx.Module], key: jax.Array) -> tuple[Params, State]:
    _, params, state = split(build(rngs=nnx.Rngs(key)))
    return params, state
