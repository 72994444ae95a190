"""Keras 3 models on the JAX backend as candidates."""

from __future__ import annotations

import contextlib
import dataclasses
import random as python_random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.adapters import Adapted, Tree, make_spec


def from_keras(
    model: Any,
    *,
    name: str | None = None,
    input_size: int | None = None,
    preprocessing: str = "unit",
    layer: str | None = None,
) -> ModelSpec:
    """A Keras 3 model on the JAX backend, with the weights it has, as a candidate.

    The model's own variables are copied and never trained. Layers with `trainable = False` stay
    frozen. The compute dtype is that of the model's own dtype policy.

    Args:
        model: functional or sequential `keras.Model` of one image input, channels last.
        name: in tables and file names; None: the model's.
        input_size: side of the square input in pixels; None: the model's own.
        preprocessing: how uint8 pixels become input, a key of `ncap_jax.zoo.preprocess.MODES`.
        layer: name of the layer whose output is the features; None: the model's output. Name
            the one below the classifier, or build the model with `include_top=False`.

    Raises:
        ModelError: not a Keras model, another backend, no such layer, no input size, nothing to
            train, or an output of another shape.
        WeightsError: a weight is not finite.
        ConfigError: unknown preprocessing.
    """
    keras = _import_keras()
    if not isinstance(model, keras.Model):
        raise errors.ModelError(
            f"a {type(model).__name__} is not a keras.Model", "Give a Keras 3 model"
        )
    body = _keras_body(keras, model, layer)
    size = input_size or body.input_shape[1]
    if size is None:
        raise errors.ModelError(
            f"the Keras model {model.name} takes images of any size", "Give input_size in pixels"
        )
    if not body.trainable_variables:
        raise errors.ModelError(
            f"the Keras model {model.name} has nothing to train", "Set model.trainable = True"
        )
    apply = KerasApply(body)
    params, state = _keras_arrays(body)

    def given(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        return Adapted(apply, params, state, None)

    def random(*, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        fresh = _drawn_anew(keras, body, int(jax.random.bits(rngs.params())))
        # Under the model's own names: Keras numbers some variables of a copy on.
        drawn, other = (
            dict(zip(names, arrays.values(), strict=True))
            for names, arrays in zip((params, state), _keras_arrays(fresh))
        )
        return Adapted(apply, drawn, other, None)

    return make_spec(name or model.name, random, given, size, preprocessing)


def _import_keras() -> Any:
    """The package, on the JAX backend."""
    try:
        import keras
    except ImportError as error:
        raise errors.ModelError(
            "Keras is not installed", "Run pip install 'ncap_jax[keras]'"
        ) from error
    if keras.backend.backend() != "jax":
        raise errors.ModelError(
            f"Keras runs on the backend {keras.backend.backend()!r}",
            "Set KERAS_BACKEND=jax before Keras is imported",
        )
    return keras


def _drawn_anew(keras: Any, model: Any, seed: int) -> Any:
    """A copy of a Keras model with random weights."""
    before = python_random.getstate()
    python_random.seed(seed)  # where Keras's initialisers take their seeds from
    try:
        return keras.models.clone_model(model)
    finally:
        python_random.setstate(before)


@dataclass(frozen=True)
class KerasApply:
    """A Keras model as an `Apply`; equal where the model is one and the same object.

    Attributes:
        model: its variables stay as they are.
        longest: momentum that no batch norm exceeds in training.
    """

    model: Any
    longest: float = 1.0

    def __call__(
        self, params: Tree, state: Tree, x: jax.Array, key: jax.Array | None, *, training: bool
    ) -> tuple[jax.Array, Tree]:
        del key  # Keras keeps its random streams in its state
        with _momenta(self.model, self.longest):
            y, changed = self.model.stateless_call(
                [params[key] for key in sorted(params)],
                [state[key] for key in sorted(state)],
                x,
                training=training,
            )
        return y, dict(zip(sorted(state), changed, strict=True))

    def limited(self, longest: float) -> KerasApply:
        """See `Apply`."""
        return dataclasses.replace(self, longest=longest)

    def __hash__(self) -> int:
        return hash((id(self.model), self.longest))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KerasApply):
            return NotImplemented
        return self.model is other.model and self.longest == other.longest


@contextlib.contextmanager
def _momenta(model: Any, longest: float) -> Iterator[None]:
    """Lend a model's batch norm a shorter memory: the model is the user's."""
    import keras

    layers = model._flatten_layers()
    found = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    own = [layer.momentum for layer in found]
    try:
        for layer, momentum in zip(found, own):
            layer.momentum = min(momentum, longest)
        yield
    finally:
        for layer, momentum in zip(found, own):
            layer.momentum = momentum


def _keras_arrays(model: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Copies of trainable and other arrays by number and path: paths may repeat."""

    def named(variables: Iterable[Any]) -> dict[str, jax.Array]:
        # Copies, for Keras's own fit() donates its arrays.
        return {f"{i:05d}:{v.path}": jnp.array(v.value) for i, v in enumerate(variables)}

    return named(model.trainable_variables), named(model.non_trainable_variables)


def _keras_body(keras: Any, model: Any, layer: str | None) -> Any:
    """The model up to a layer, checked for one image input."""
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise errors.ModelError(
            f"the Keras model {model.name} has inputs of shapes {shapes}",
            "Give a built model of one input (batch, height, width, 3)",
        )
    if layer is None:
        return model
    names = [each.name for each in model.layers]
    if layer not in names:
        raise errors.ModelError(*errors.unknown_name("layer", layer, names))
    return keras.Model(model.inputs[0], model.get_layer(layer).output, name=model.name)
