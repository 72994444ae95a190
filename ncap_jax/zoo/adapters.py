"""Models of your own as candidates: NNX objects and Flax Linen modules.

Each `from_...` returns a `ModelSpec` for `rank_models`. A model of another library runs through
its own pure function, f(parameters, state, x) -> (y, state); its parameters and its state (batch
statistics and the like) become NNX variables, so that fine-tuning, checkpoints and measurement
treat it like any model of the zoo. Outputs of shape (batch, height, width, channels) are averaged
over height and width, as every model of the zoo does.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy
from flax import core, linen, nnx
from flax.linen import meta

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, preprocess
from ncap_jax.zoo.layers import global_average
from ncap_jax.zoo.weights import store

Tree = Any
# (parameters, state, x, key, training) -> (y, new state)
Apply = Callable[[Tree, Tree, jax.Array, jax.Array | None, bool], tuple[jax.Array, Tree]]
Builder = Callable[..., nnx.Module]

# How Linen modules call the argument that switches batch norm and dropout -> its value in training.
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
        apply: the model as a pure function; compared by identity.
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
        y, state = self.apply(_arrays(self.params), _arrays(self.state), x, key, training)
        if training:
            _write(self.state, state)
        return pooled(y)

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
        ConfigError: unknown preprocessing.
    """
    if not callable(getattr(module, method, None)):
        raise errors.ModelError(
            f"{type(module).__name__} has no method {method!r}", "Name the one that gives features"
        )
    kept = nnx.clone(module)

    def given(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        return Method(nnx.clone(kept), method)

    def random(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        raise errors.ModelError(
            f"{name} was given with its weights; how to draw it afresh is not known",
            "Give a ModelSpec with a build function for a run from scratch",
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
            `method` does not use (the classifier) is left out. None: a run with
            `weights="random"` only.
        name: in tables and file names.
        input_size: side of the square input in pixels.
        preprocessing: how uint8 pixels become input, a key of `ncap_jax.zoo.preprocess.MODES`.
        method: name, or function of (module, x), that maps (batch, height, width, 3) to features
            (batch, width) or (batch, height, width, channels).

    Raises:
        ModelError: no such method, or its output is of another shape.
        WeightsError: the variables lack something the method needs, or differ in shape.
        ConfigError: unknown preprocessing.
    """
    function = getattr(type(module), method, None) if isinstance(method, str) else method
    if function is None:
        raise errors.ModelError(
            f"{type(module).__name__} has no method {method!r}", "Name the one that gives features"
        )
    accepted = inspect.signature(function).parameters
    modes = {key: value for key, value in TRAINING_ARGUMENTS.items() if key in accepted}
    sample = jnp.zeros((1, input_size, input_size, 3))

    def random(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        typed = dtype is not None and hasattr(module, "dtype")
        used = module.clone(dtype=dtype) if typed else module
        inference = {key: not value for key, value in modes.items()}
        drawn = used.init(
            {"params": rngs.params(), "dropout": rngs.dropout()}, sample, method=method, **inference
        )
        drawn = _unboxed(drawn)
        return Adapted(_linen_apply(used, method, modes), drawn.pop("params", {}), drawn, rngs())

    def given(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        seed = int(jax.random.bits(rngs()))
        adapted = functional.build_to_fill(lambda: random(rngs=nnx.Rngs(0), dtype=dtype), seed)
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
            "Name a method or layer that gives (batch, width) or (batch, height, width, channels)",
        )
    return y


def make_spec(
    name: str, random: Builder, given: Builder | None, input_size: int, preprocessing: str
) -> ModelSpec:
    """The candidate, its feature width found by an abstract call."""
    preprocess.scaling_of(preprocessing)  # refuses an unknown mode now rather than in the run
    module = given(rngs=nnx.Rngs(0)) if given else nnx.eval_shape(lambda: random(rngs=nnx.Rngs(0)))
    module.eval()
    x = jax.ShapeDtypeStruct((1, input_size, input_size, 3), jnp.float32)
    width = nnx.eval_shape(lambda m, x: m.features(x), module, x).shape[1]
    return ModelSpec(
        name=name,
        build=random,
        input_size=input_size,
        feature_width=width,
        preprocessing=preprocessing,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))),
        sha256=_digest(module) if given else None,
        extra={"pretrained": given} if given else {},
    )


def _digest(module: nnx.Module) -> str:
    """SHA-256 of the weights as safetensors would hold them."""
    return hashlib.sha256(safetensors.numpy.save(store.state_arrays(module))).hexdigest()


def _linen_apply(module: linen.Module, method: Any, modes: Mapping[str, bool]) -> Apply:
    def apply(params, state, x, key, training):
        variables = {"params": params, **state}
        arguments = {name: value == training for name, value in modes.items()}
        if not training:
            return module.apply(variables, x, method=method, **arguments), state
        y, changed = module.apply(
            variables, x, method=method, mutable=list(state), rngs={"dropout": key}, **arguments
        )
        return y, {**state, **changed}

    return apply


def _unboxed(variables: Any) -> dict[str, Any]:
    """Plain nested dicts of arrays: no FrozenDict, no sharding metadata."""
    return dict(core.unfreeze(meta.unbox(variables)))


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _arrays(variables: Tree) -> Tree:
    return jax.tree.map(lambda v: v[...], variables, is_leaf=_is_variable)


def _write(variables: Tree, values: Tree) -> None:
    def write(variable, value):
        variable[...] = value

    jax.tree.map(write, variables, values, is_leaf=_is_variable)
