"""Models of your own as candidates: NNX objects and Flax Linen modules.

Each `from_...` returns a `ModelSpec` for `rank_models`. A model of another library runs through
its own pure function, f(parameters, state, x) -> (y, state); its parameters and its state (batch
statistics and the like) become NNX variables, so that fine-tuning, checkpoints and measurement
treat it like any model of the zoo. Outputs of shape (batch, height, width, channels) are averaged
over height and width, as every model of the zoo does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import safetensors.numpy
from flax import core, linen, nnx
from flax.linen import meta
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, preprocess, shapes
from ncap_jax.zoo.layers import global_average
from ncap_jax.zoo.weights import store

Tree = Any
Builder = Callable[..., nnx.Module]


class Apply(Protocol):
    """A model of another library as a pure function."""

    def __call__(
        self, params: Tree, state: Tree, x: jax.Array, key: jax.Array | None, *, training: bool
    ) -> tuple[jax.Array, Tree]:
        """The model's value, and its state after the call."""

    def limited(self, longest: float) -> Apply:
        """The same model, no batch norm of which has a momentum above `longest` in training."""


# What Linen modules call the switch of batch norm and dropout -> its value in training.
TRAINING_ARGUMENTS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Adapted(nnx.Module):
    """A model of another library behind the interface of the zoo.

    Args:
        apply: the model as a pure function; two models share compiled programs if theirs are equal.
        params: pytree of trainable arrays.
        state: pytree of the other arrays.
        key: for dropout and the like, or None: the model draws no random numbers.
    """

    def __init__(self, apply: Apply, params: Tree, state: Tree, key: jax.Array | None):
        self.apply = apply
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(nnx.BatchStat, state))
        self.rngs = None if key is None else nnx.Rngs(dropout=key)
        self.deterministic = False  # what train() and eval() switch

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, preprocessed -> (batch, width)."""
        training = not self.deterministic
        key = self.rngs.dropout() if training and self.rngs is not None else None
        y, state = self.apply(_arrays(self.params), _arrays(self.state), x, key, training=training)
        if training:
            _write(self.state, state)
        return pooled(y)

    def limit_momentum(self, longest: float) -> None:
        """Let no running average of the model's batch norm have a momentum above `longest`."""
        self.apply = self.apply.limited(longest)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The same as `features`."""
        return self.features(x)


class Method(nnx.Module):
    """An NNX module whose features come from a method of any name."""

    def __init__(self, module: nnx.Module, method: str):
        self.module = module
        self.method = method

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, preprocessed -> (batch, width)."""
        return pooled(getattr(self.module, self.method)(x))


def from_module(
    module: nnx.Module,
    *,
    name: str,
    input_size: int,
    preprocessing: str = "unit",
    method: str = "features",
) -> ModelSpec:
    """An NNX module that is in memory, with the weights it has, as a candidate.

    The module is copied when it is used: the original is never trained.

    Args:
        module: any `nnx.Module`.
        name: in tables and file names.
        input_size: side of the square input in pixels.
        preprocessing: how uint8 pixels become input, a key of `ncap_jax.zoo.preprocess.MODES`.
        method: of the module; maps (batch, height, width, 3) to features (batch, width) or
            (batch, height, width, channels).

    Raises:
        ModelError: the module has no such method, or its output is of another shape.
        WeightsError: a weight is not finite.
        ConfigError: unknown preprocessing.
    """
    if not callable(getattr(module, method, None)):
        raise errors.ModelError(
            f"{type(module).__name__} has no method {method!r}",
            "Name the method that returns the features",
        )
    kept = nnx.clone(module)

    def given(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        return Method(nnx.clone(kept), method)

    def random(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        raise errors.ModelError(
            f"{name} is a module in memory, which cannot be drawn anew at random",
            "For a run from scratch, give a ModelSpec with a build function",
        )

    return make_spec(name, random, given, input_size, preprocessing)


def from_linen(
    module: linen.Module,
    variables: Mapping[str, Any] | None,
    *,
    name: str,
    input_size: int,
    preprocessing: str = "unit",
    method: str | Callable[..., Any] = "__call__",
) -> ModelSpec:
    """A Flax Linen module as a candidate.

    Training mode is passed as the argument that the method has for it (`train`, `training`,
    `is_training`, `deterministic` or `use_running_average`). A field `dtype` of the module is set
    to the run's.

    Args:
        module: the Linen module, unbound.
        variables: its pretrained variables, {"params": ..., "batch_stats": ..., ...}; what
            `method` does not use (the classifier) is left out. None: the model can only be drawn
            at random (`weights="random"` of the run or of the ModelSpec).
        name: in tables and file names.
        input_size: side of the square input in pixels.
        preprocessing: how uint8 pixels become input, a key of `ncap_jax.zoo.preprocess.MODES`.
        method: name, or function of (module, x), that maps (batch, height, width, 3) to features
            (batch, width) or (batch, height, width, channels).

    Raises:
        ModelError: no such method, or its output is of another shape.
        WeightsError: the variables lack something the method needs, differ in shape, or are not
            finite.
        ConfigError: unknown preprocessing.
    """
    modes = _training_arguments(module, method)
    sample = jnp.zeros((1, input_size, input_size, 3))

    def random(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        typed = dtype is not None and hasattr(module, "dtype")
        used = module.clone(dtype=dtype) if typed else module
        apply = LinenApply(used, method, modes)
        keys = {"params": rngs.params(), "dropout": rngs.dropout()}
        drawn = used.init(keys, sample, method=method, **apply.arguments(training=False))
        drawn = _unboxed(drawn)
        return Adapted(apply, drawn.pop("params", {}), drawn, rngs())

    def given(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        seed = int(jax.random.bits(rngs()))
        adapted = functional.build_to_fill(partial(random, dtype=dtype), seed)
        values = _unboxed(variables)
        nested = {"params": values.pop("params", {}), "state": values}
        leaves, _ = jax.tree_util.tree_flatten_with_path(nested)
        arrays = {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}
        used = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(adapted))}
        arrays = {key: leaf for key, leaf in arrays.items() if key in used}  # no classifier
        store.assign(adapted, arrays, f"the given variables of {name}")
        return adapted

    return make_spec(
        name, random, given if variables is not None else None, input_size, preprocessing
    )


def pooled(y: jax.Array) -> jax.Array:
    """Features (batch, width) as they are, feature maps averaged over height and width.

    Raises:
        ModelError: any other shape.
    """
    if getattr(y, "ndim", None) == 4:
        return global_average(y)
    if getattr(y, "ndim", None) != 2:
        shape = getattr(y, "shape", type(y).__name__)
        raise errors.ModelError(
            f"the model returns {shape} instead of features",
            "Name one that returns (batch, width) or (batch, height, width, channels)",
        )
    return y


def make_spec(
    name: str, random: Builder, given: Builder | None, input_size: int, preprocessing: str
) -> ModelSpec:
    """The candidate, its feature width found by an abstract call."""
    preprocess.scaling_of(preprocessing)  # refuses an unknown mode now rather than in the run
    module = given(rngs=nnx.Rngs(0)) if given else functional.build_abstractly(random)
    module.eval()
    return ModelSpec(
        name=name,
        build=random,
        input_size=input_size,
        feature_width=shapes.feature_width(module, input_size),
        preprocessing=preprocessing,
        parameters=shapes.parameters(module),
        sha256=_digest(module, name) if given else None,
        build_pretrained=given,
    )


def _digest(module: nnx.Module, name: str) -> str:
    """SHA-256 of the weights as safetensors would hold them.

    Raises:
        WeightsError: a value is not finite.
    """
    arrays = store.state_arrays(module)
    store.check_finite(arrays, name)
    return hashlib.sha256(safetensors.numpy.save(arrays)).hexdigest()


def _training_arguments(
    module: linen.Module, method: str | Callable[..., Any]
) -> tuple[tuple[str, bool], ...]:
    """Those of `TRAINING_ARGUMENTS` that a method takes.

    Raises:
        ModelError: the module lacks the method.
    """
    function = getattr(type(module), method, None) if isinstance(method, str) else method
    if function is None:
        raise errors.ModelError(
            f"{type(module).__name__} has no method {method!r}",
            "Name the method that returns the features",
        )
    accepted = inspect.signature(function).parameters
    return tuple((key, value) for key, value in TRAINING_ARGUMENTS.items() if key in accepted)


@dataclass(frozen=True, eq=False)
class LinenApply:
    """A method of a Linen module as an `Apply`; equal where module and method are.

    Attributes:
        module: unbound.
        method: its name, or a function of (module, x).
        modes: arguments of the method that switch training mode, with their value in training.
        longest: momentum that no `linen.BatchNorm` exceeds in training.
    """

    module: linen.Module
    method: str | Callable[..., Any]
    modes: tuple[tuple[str, bool], ...]
    longest: float = 1.0

    def arguments(self, *, training: bool) -> dict[str, bool]:
        """What the method is called with in either mode."""
        return {name: value == training for name, value in self.modes}

    def __call__(
        self, params: Tree, state: Tree, x: jax.Array, key: jax.Array | None, *, training: bool
    ) -> tuple[jax.Array, Tree]:
        run: Any = partial(self.module.apply, {"params": params, **state}, x, method=self.method)
        arguments = self.arguments(training=training)
        if not training:
            return run(**arguments), state
        # A module's parts exist only while it runs: there they are met.
        with linen.intercept_methods(self._limit):
            y, changed = run(mutable=list(state), rngs={"dropout": key}, **arguments)
        return y, {**state, **changed}

    def _limit(
        self,
        method: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: linen.module.InterceptorContext,
    ) -> Any:
        module = context.module  # bound for this call alone, though frozen like all of Linen's
        if isinstance(module, linen.BatchNorm) and module.momentum > self.longest:
            object.__setattr__(module, "momentum", self.longest)
        return method(*args, **kwargs)

    def limited(self, longest: float) -> LinenApply:
        """See `Apply`."""
        return dataclasses.replace(self, longest=longest)

    def __hash__(self) -> int:
        # Not of the module: one with a list among its fields has no hash.
        return hash((type(self.module), self.method, self.modes, self.longest))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinenApply):
            return NotImplemented
        settings = (self.method, self.modes, self.longest)
        if settings != (other.method, other.modes, other.longest):
            return False
        if self.module is other.module:
            return True
        try:
            return type(self.module) is type(other.module) and bool(self.module == other.module)
        except ValueError:  # arrays among the fields, which have no single truth value
            return False


def _unboxed(variables: Any) -> dict[str, Any]:
    """Plain nested dicts of arrays: no FrozenDict, no sharding metadata."""
    return dict(core.unfreeze(meta.unbox(variables)))


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _arrays(variables: Tree) -> Tree:
    return jax.tree.map(lambda v: v[...], variables, is_leaf=_is_variable)


def _write(variables: Tree, values: Tree) -> None:
    def write(variable: nnx.Variable, value: jax.Array) -> None:
        # `variable[...] =` compares shardings: time quadratic in the length of a trace.
        variable.set_value(value)

    jax.tree.map(write, variables, values, is_leaf=_is_variable)
