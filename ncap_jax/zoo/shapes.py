"""What a network makes of an input of some size: found from shapes alone, nothing is computed.

A network that is too small for its input does not fail: a convolution or a pooling without padding
gives an array without elements, and the mean over none of them is NaN. So a size works where every
array on the way to the features has elements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional
from ncap_jax.zoo.registry import MODELS

# Where the search for a size that a network can take ends.
LARGEST = 1024


def feature_width(module: nnx.Module, size: int) -> int:
    """The width of `features(x)` for square images.

    Args:
        module: with arrays or with shapes alone.
        size: side of the images in pixels.

    Raises:
        ModelError: the features are of another shape than (batch, width).
        Exception: whatever the module raises for that size.
    """
    return _width(_traced(module, size)[1].shape)


def parameters(module: nnx.Module) -> int:
    """The number of trainable scalars of a module, with arrays or with shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def checked(specs: Sequence[ModelSpec], input_size: int | None = None) -> tuple[ModelSpec, ...]:
    """The models with the feature width and the number of parameters that their networks have.

    Models of the zoo at their own size are taken at their word: the tests hold them to it. A model
    that cannot be built or run at its own size comes back as it is, for it must not cost the
    others their run: training it says what is wrong.

    Args:
        specs: the models.
        input_size: side of the images in pixels; None: each model's own.

    Raises:
        ModelError: a stated width is wrong, features are not (batch, width), or a network
            cannot take images of that size.
    """
    return tuple(_checked(spec, input_size or spec.input_size) for spec in specs)


def _checked(spec: ModelSpec, size: int) -> ModelSpec:
    in_zoo = MODELS.get(spec.name) == spec
    if in_zoo and size == spec.input_size:
        return spec
    try:
        module = shapes_of(spec)
        own = None if in_zoo else feature_width(module, spec.input_size)
    except errors.ModelError as error:
        raise errors.ModelError(f"{spec.name}: {error.cause}", error.remedy) from error
    except Exception:  # of somebody else's code
        return spec
    if own is not None and spec.feature_width not in (None, own):
        raise errors.ModelError(
            f"{spec.name} has features of width {own}, not feature_width={spec.feature_width}",
            f"Use feature_width={own}, or leave it out",
        )
    width = working_width(module, size)
    if width is None:
        _refuse_size(spec, module, size)
        return spec
    return dataclasses.replace(
        spec,
        feature_width=width,
        parameters=parameters(module) if spec.parameters is None else spec.parameters,
    )


def _refuse_size(spec: ModelSpec, module: nnx.Module, size: int) -> None:
    """Raise the error for a size that does not work, with the smallest that does, if any does."""
    larger = [spec.input_size, *(size * 2**n for n in range(1, LARGEST.bit_length()))]
    working = (s for s in larger if size < s <= LARGEST and works(module, s))
    if (high := next(working, None)) is None:
        if not works(module, spec.input_size):
            return
        raise _unusable(spec, size, f"Use input_size={spec.input_size}, or leave the model out")
    smallest = _smallest(module, size, high)
    least = "at least " if works(module, smallest + 1) else ""
    raise _unusable(spec, size, f"Give an input_size of {least}{smallest}, or leave the model out")


def works(module: nnx.Module, size: int) -> bool:
    """Whether a network can take square images of this side."""
    return working_width(module, size) is not None


def working_width(module: nnx.Module, size: int) -> int | None:
    """The width of a network's features for square images of this side; None: it cannot take them.

    One trace tells both: tracing a deep network takes a second.
    """
    try:
        jaxpr, features = _traced(module, size)
        width = _width(features.shape)
    except Exception:  # of somebody else's code
        return None
    return width if all(0 not in shape for shape in _shapes_in(jaxpr.jaxpr)) else None


def _smallest(module: nnx.Module, low: int, high: int) -> int:
    """The smallest size that works, by bisection, between one that does not and one that does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(module, middle) else (middle, high)
    return high


def _unusable(spec: ModelSpec, size: int, remedy: str) -> errors.ModelError:
    return errors.ModelError(f"{spec.name} cannot take images of {size} pixels", remedy)


def shapes_of(spec: ModelSpec, dtype: DTypeLike | None = None) -> nnx.Module:
    """The model's module, of shapes alone where its builder can do that.

    Args:
        spec: the model.
        dtype: compute dtype; None: that of the input.
    """
    options = {} if dtype is None else {"dtype": dtype}
    try:
        return functional.build_to_fill(partial(spec.build, **options), 0)
    except errors.ModelError:
        # A module that is in memory cannot be drawn anew: it is there already.
        if spec.build_pretrained is None:
            raise
        return spec.build_pretrained(rngs=nnx.Rngs(0), **options)


def _traced(module: nnx.Module, size: int) -> tuple[Any, Any]:
    """The features of one image as a jaxpr, and their shape."""
    definition, params, state = functional.split(module)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    run = functional.Inference(definition, "features")
    return jax.make_jaxpr(run, return_shape=True)(params, state, image)


def _width(shape: tuple[int, ...]) -> int:
    if len(shape) != 2:
        raise errors.ModelError(
            f"one image gives features of shape {shape}",
            "Return (batch, width), such as the mean over height and width",
        )
    return shape[1]


def _shapes_in(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all arrays that a jaxpr makes, those of the functions it calls included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _shapes_in(inner)
