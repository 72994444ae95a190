"""Our models against Keras Applications: same random weights, same images, stage by stage.

Keras runs on its JAX backend. Its weights, non-trivial batch-norm statistics included, are written
by Keras in the legacy format and read by our reader, so a test covers reader, key map and network.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx
from keras.src.backend.common import dtypes
from keras.src.legacy.saving import legacy_h5_format

from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import keras_h5, keymap, store

BATCH = 4
# Largest relative error allowed (docs/numerics.md).
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}

# Both sides are compiled alike: at half the compile time, and with one thread to a sum, since a
# sum that threads split differently differs in its last bit, which is enough for an activation
# beside a ReLU's kink to fall to its other side and for the gradient to jump.
OPTIONS = {"xla_backend_optimization_level": 0}
if jax.default_backend() == "cpu":
    OPTIONS["xla_cpu_multi_thread_eigen"] = False
jit = functools.partial(jax.jit, compiler_options=OPTIONS)

APPLICATIONS: dict[str, Callable[..., Any]] = {
    "vgg16": keras.applications.VGG16,
    "vgg19": keras.applications.VGG19,
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "resnet50v2": keras.applications.ResNet50V2,
    "resnet101v2": keras.applications.ResNet101V2,
    "resnet152v2": keras.applications.ResNet152V2,
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "densenet201": keras.applications.DenseNet201,
    "mobilenet": keras.applications.MobileNet,
    "mobilenetv2": keras.applications.MobileNetV2,
    "inceptionv3": keras.applications.InceptionV3,
    "inceptionresnetv2": keras.applications.InceptionResNetV2,
    "xception": keras.applications.Xception,
}


class Outcome(NamedTuple):
    """What one network does with one batch, everything under published names."""

    features: np.ndarray
    stages: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]  # running averages after the step; empty in inference
    gradients: dict[str, np.ndarray]  # of a scalar loss by parameter; empty in inference


def _result_type(*dtypes):
    """Keras's promotion, which rounds float64 to float32 inside batch norm, mended."""
    return "float64" if "float64" in dtypes else _keras_result_type(*dtypes)


_keras_result_type = dtypes.result_type
# The function is reached by two names.
_RESULT_TYPES = (keras.src.backend, dtypes)


@contextlib.contextmanager
def precision(dtype: str):
    """JAX and Keras in `dtype`."""
    before = keras.config.floatx()
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(dtype == "float64"))
        for module in _RESULT_TYPES:
            stack.enter_context(mock.patch.object(module, "result_type", _result_type))
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)
            keras.config.set_dtype_policy(before)


def keras_model(name: str, size: int | None, seed: int = 0, **options):
    """The Keras application without classifier, all its weights random (statistics too)."""
    keras.backend.clear_session()  # unnamed layers are numbered from the start again
    model = APPLICATIONS[name](
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg", **options
    )
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(_random(rng, variable))
    return model


def _random(rng: np.random.Generator, variable) -> np.ndarray:
    kind = variable.path.rsplit("/", 1)[-1]
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, variable.shape)
    if kind in ("beta", "bias", "moving_mean"):
        return rng.normal(0, 0.2, variable.shape)
    return np.asarray(variable.value) * rng.uniform(0.8, 1.2, variable.shape)


def save_legacy(model, path: pathlib.Path) -> None:
    """Write a model's weights as Keras Applications publishes them."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def our_model(spec: ModelSpec, path: pathlib.Path, dtype: str) -> nnx.Module:
    """Our network with the weights Keras wrote, arrays of `dtype`."""
    module = spec.build(rngs=nnx.Rngs(0))
    arrays = keras_h5.read(path)
    store.assign(module, keymap.rename(module, arrays, "keras"), str(path))
    if dtype == "float64":  # from the file, so that no digit is lost on the way
        wide = keymap.rename(module, arrays, "keras")
        for name, leaf in nnx.to_flat_state(nnx.state(module)):
            leaf.set_value(jnp.asarray(wide[".".join(map(str, name))], jnp.float64))
    return module


def images(size: int, dtype: str, samples: int = BATCH) -> list[np.ndarray]:
    """Batches of different means, none of them zero, and different spreads."""
    rng = np.random.default_rng(1000)
    shape = (samples, size, size, 3)
    return [rng.normal(m, s, shape).astype(dtype) for m, s in ((0.4, 1.0), (-0.9, 0.5))]


def loss_weights(width: int, dtype) -> jax.Array:
    """The scalar loss is the mean over the batch of features times these, squared features too."""
    return jnp.asarray(np.random.default_rng(7).normal(size=width), dtype)


def loss_of(features: jax.Array) -> jax.Array:
    w = loss_weights(features.shape[-1], features.dtype)
    return jnp.mean((features + 0.5 * features**2) @ w)


def run_keras(model, stage_names: list[str], batches, *, train: bool) -> list[Outcome]:
    """Keras's own outcomes; stages are looked up by layer name."""
    layers = {layer.name for layer in model.layers}
    names = [name for name in stage_names if name in layers]
    # Keras has names for all stages but the sum in the last block of Inception-ResNet v2.
    assert set(stage_names) - set(names) <= {"block8_10_sum"}
    wide = keras.Model(
        model.inputs, [model.output, *(model.get_layer(name).output for name in names)]
    )

    def loss(trainable, fixed, x):
        outputs, fixed = wide.stateless_call(trainable, fixed, x, training=train)
        return loss_of(outputs[0]), (outputs, fixed)

    trainable = [v.value for v in wide.trainable_variables]
    fixed = [v.value for v in wide.non_trainable_variables]
    run = jit(jax.grad(loss, has_aux=True) if train else loss)
    outcomes = []
    for x in batches:
        first, second = run(trainable, fixed, x)
        grads, (outputs, moved) = (first, second) if train else ((), (second[0], ()))
        outcomes.append(
            Outcome(
                features=np.asarray(outputs[0]),
                stages=dict(zip(names, map(np.asarray, outputs[1:]))),
                statistics=_by_name(wide.non_trainable_variables, moved),
                gradients=_by_name(wide.trainable_variables, grads),
            )
        )
    return outcomes


def _by_name(variables, values) -> dict[str, np.ndarray]:
    paths = [v.path for v in variables]
    order = keras_h5.creation_order(dict.fromkeys(p.rsplit("/", 1)[0] for p in paths))
    named = {}
    for path, value in zip(paths, values):
        layer, kind = path.rsplit("/", 1)
        named[f"{order.get(layer, layer)}/{kind}"] = np.asarray(value)
    return named


def run_ours(module: nnx.Module, batches, *, train: bool) -> list[Outcome]:
    """Our outcomes, under the dotted paths of our state."""
    (module.train if train else module.eval)()
    graphdef, params, state = nnx.split(module, nnx.Param, ...)

    def loss(params, state, x):
        model = nnx.merge(graphdef, params, state, copy=True)
        stages = model.stages(x)
        features = model.features(x) if not train else _last_mean(stages)
        return loss_of(features), (features, stages, nnx.split(model, nnx.Param, ...)[2])

    run = jit(jax.grad(loss, has_aux=True) if train else loss)
    outcomes = []
    for x in batches:
        first, second = run(params, state, x)
        features, stages, moved = second
        outcomes.append(
            Outcome(
                features=np.asarray(features),
                stages={name: np.asarray(value) for name, value in stages.items()},
                statistics=_flat(moved) if train else {},
                gradients=_flat(first) if train else {},
            )
        )
    return outcomes


def _last_mean(stages):
    # One pass only: a second would move the running averages twice.
    *_, last = stages.values()
    return jnp.mean(last, axis=(1, 2))


def _flat(state) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def relative_error(ours: np.ndarray, theirs: np.ndarray, scale: float | None = None) -> float:
    """Largest difference over the largest value, or over `scale`."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / (scale or np.abs(theirs).max() or 1.0))


def gradient_scales(gradients: dict[str, np.ndarray]) -> dict[str, float]:
    """What each leaf's gradient error is divided by: its largest value.

    Some gradients are zero in exact arithmetic (a bias that the next batch norm subtracts again);
    there is nothing but rounding in them, which is measured against the median over all leaves.
    """
    largest = {name: float(np.abs(value).max()) for name, value in gradients.items()}
    typical = float(np.median(list(largest.values()))) if largest else 1.0
    return {name: typical if value < 1e-4 * typical else value for name, value in largest.items()}


def differences(ours: Outcome, theirs: Outcome, module: nnx.Module) -> dict[str, float]:
    """Relative errors by what was compared: features, each stage, statistic and gradient."""
    errors = {"features": relative_error(ours.features, theirs.features)}
    for stage, value in theirs.stages.items():
        errors[f"stage {stage}"] = relative_error(ours.stages[stage], value)
    statistics = keymap.rename(module, theirs.statistics, "keras")
    assert set(ours.statistics) == set(statistics)
    for leaf, value in statistics.items():
        errors[f"running {leaf}"] = relative_error(ours.statistics[leaf], value)
    gradients = keymap.rename(module, theirs.gradients, "keras")
    assert set(ours.gradients) == set(gradients)
    scales = gradient_scales(gradients)
    for leaf, value in gradients.items():
        errors[f"gradient {leaf}"] = relative_error(ours.gradients[leaf], value, scales[leaf])
    return errors


def compare(
    spec: ModelSpec,
    name: str,
    size: int,
    dtype: str,
    folder,
    *,
    train: bool,
    samples: int = BATCH,
    **options,
) -> tuple[dict[str, float], list[Outcome]]:
    """Build both networks with the same weights and run them on the same images.

    Args:
        spec: ours.
        name: Keras's, a key of `APPLICATIONS`.
        size: side of the images.
        dtype: float32 or float64.
        folder: for the weights file.
        train: compare training mode, gradients and running averages too, or inference.
        samples: images a batch.
        options: to Keras's builder.

    Returns:
        The largest relative error of each thing over all batches, and our outcomes.
    """
    with precision(dtype):
        theirs = keras_model(name, size, **options)
        assert spec.parameters == sum(math.prod(v.shape) for v in theirs.trainable_variables)
        path = pathlib.Path(folder) / f"{name}.h5"
        save_legacy(theirs, path)
        module = our_model(spec, path, dtype)
        batches = images(size, dtype, samples)
        ours = run_ours(module, batches, train=train)
        keras_outcomes = run_keras(theirs, list(ours[0].stages), batches, train=train)
        pairs = [differences(*pair, module) for pair in zip(ours, keras_outcomes, strict=True)]
    return {key: max(pair[key] for pair in pairs) for key in pairs[0]}, ours
