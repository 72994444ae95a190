"""Our models against Keras Applications itself: same weights, same images, stage by stage.

Keras runs on its JAX backend. Weights, non-trivial batch-norm statistics included, are written by
Keras in the legacy format and read by our reader, so a test covers reader, key map and network.
With `--write` and `--genuine` this module writes the files of `tests.support.keras_outputs`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx
from keras.src.backend.common import dtypes
from keras.src.legacy.saving import legacy_h5_format

from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, functional
from ncap_jax.zoo.weights import keras_h5, keymap, sources, store
from tests.support import keras_outputs
from tests.support.keras_outputs import ALL, Kept, Outcome, jit

BATCH = 4


def _result_type(*given: Any) -> str:
    """Keras's promotion, without its flaw to round float64 to float32 inside batch norm."""
    return "float64" if "float64" in given else _keras_result_type(*given)


_keras_result_type = dtypes.result_type
# The function is reached by two names.
_RESULT_TYPES = (keras.src.backend, dtypes)


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
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


def keras_model(name: str, size: int | None) -> Any:
    """The Keras application behind a model of ours, without classifier, with drawn weights."""
    keras.backend.clear_session()  # unnamed layers are numbered from the start again
    case = ALL[name]
    # Zeros first: drawing would compile a program for every shape, to be overwritten below.
    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", _zeros):
        model = getattr(keras.applications, case.application)(
            weights=None,
            include_top=False,
            input_shape=(size, size, 3),
            pooling="avg",
            **case.options,
        )
    for key, variable in variables(model).items():
        variable.assign(keras_outputs.draw(key, tuple(variable.shape)))
    return model


def _zeros(initializer: Any, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
    return np.zeros(shape, dtype or keras.config.floatx())


def variables(model: Any) -> dict[str, Any]:
    """Every variable of a Keras model by `layer/kind`, unnamed layers numbered as in files."""
    return dict(zip(_names(model.variables), model.variables))


def _names(variables: Iterable[Any]) -> list[str]:
    split = [variable.path.rsplit("/", 1) for variable in variables]
    order = keras_h5.creation_order(dict.fromkeys(layer for layer, _ in split))
    return [f"{order.get(layer, layer)}/{kind}" for layer, kind in split]


def save_legacy(model: Any, path: pathlib.Path) -> None:
    """Write a model's weights as Keras Applications publishes them."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def our_model(spec: ModelSpec, path: pathlib.Path, dtype: str) -> nnx.Module:
    """Our network with the weights Keras wrote, arrays of `dtype`."""
    module = spec.build(rngs=nnx.Rngs(0))
    renamed = keymap.rename(module, keras_h5.read(path), "keras")
    store.assign(module, renamed, str(path))
    if dtype == "float64":  # from the file, so that no digit is lost on the way
        for name, leaf in nnx.to_flat_state(nnx.state(module)):
            leaf.set_value(jnp.asarray(renamed[".".join(map(str, name))], jnp.float64))
    return module


def images(size: int, dtype: str, samples: int = BATCH) -> list[np.ndarray]:
    """Batches of different means, none of them zero, and different spreads."""
    rng = np.random.default_rng(1000)
    shape = (samples, size, size, 3)
    return [rng.normal(m, s, shape).astype(dtype) for m, s in ((0.4, 1.0), (-0.9, 0.5))]


def run_keras(
    model: Any, stage_names: Iterable[str], batches: Iterable[np.ndarray], *, train: bool
) -> list[Outcome]:
    """Keras's own outcomes; stages are looked up by layer name."""
    layers = {layer.name for layer in model.layers}
    names = [name for name in stage_names if name in layers]
    # Keras has names for all stages but the sum in the last block of Inception-ResNet v2.
    assert set(stage_names) - set(names) <= {"block8_10_sum"}
    wide = keras.Model(
        model.inputs, [model.output, *(model.get_layer(name).output for name in names)]
    )

    def loss(trainable: Any, fixed: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        outputs, fixed = wide.stateless_call(trainable, fixed, x, training=train)
        return keras_outputs.loss_of(outputs[0]), (outputs, fixed)

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


def _by_name(variables: Iterable[Any], values: Iterable[Any]) -> dict[str, np.ndarray]:
    return dict(zip(_names(variables), map(np.asarray, values)))


def relative_error(ours: np.ndarray, theirs: np.ndarray, scale: float | None = None) -> float:
    """Largest difference over the largest value, or over `scale`."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / (scale or np.abs(theirs).max() or 1.0))


def gradient_scales(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What each leaf's gradient error is divided by: its largest value.

    Some gradients are zero in exact arithmetic (a bias that the next batch norm subtracts again);
    there is nothing but rounding in them, which is measured against the median over all leaves.
    """
    largest = {name: float(np.abs(value).max()) for name, value in gradients.items()}
    typical = float(np.median(list(largest.values()))) if largest else 1.0
    return {name: typical if value < 1e-4 * typical else value for name, value in largest.items()}


def in_our_terms(theirs: Outcome, module: nnx.Module) -> Outcome:
    """Keras's outcome with statistics and gradients under the paths of our state."""
    return theirs._replace(
        statistics=keymap.rename(module, theirs.statistics, "keras"),
        gradients=keymap.rename(module, theirs.gradients, "keras"),
    )


def differences(ours: Outcome, theirs: Outcome, module: nnx.Module) -> dict[str, float]:
    """Relative errors by what was compared: features, each stage, statistic and gradient."""
    theirs = in_our_terms(theirs, module)
    errors = {"features": relative_error(ours.features, theirs.features)}
    for stage, value in theirs.stages.items():
        errors[f"stage {stage}"] = relative_error(ours.stages[stage], value)
    assert set(ours.statistics) == set(theirs.statistics)
    for leaf, value in theirs.statistics.items():
        errors[f"running {leaf}"] = relative_error(ours.statistics[leaf], value)
    assert set(ours.gradients) == set(theirs.gradients)
    scales = gradient_scales(theirs.gradients)
    for leaf, value in theirs.gradients.items():
        errors[f"gradient {leaf}"] = relative_error(ours.gradients[leaf], value, scales[leaf])
    return errors


def compare(
    name: str,
    dtype: str,
    folder: pathlib.Path,
    *,
    train: bool,
    size: int | None = None,
    samples: int = BATCH,
) -> tuple[dict[str, float], list[Outcome]]:
    """Build both networks with the same weights and run them on the same images.

    Args:
        name: of the model, ours.
        dtype: float32 or float64.
        folder: for the weights file.
        train: compare training mode, gradients and running averages too, or inference.
        size: side of the images; None: the case's.
        samples: images a batch.

    Returns:
        The largest relative error of each thing over all batches, and our outcomes.
    """
    spec, size = MODELS[name], size or ALL[name].size
    with precision(dtype):
        theirs = keras_model(name, size)
        assert spec.parameters == sum(int(np.prod(v.shape)) for v in theirs.trainable_variables)
        path = folder / f"{name}.h5"
        save_legacy(theirs, path)
        module = our_model(spec, path, dtype)
        batches = images(size, dtype, samples)
        ours = keras_outputs.run(module, batches, train=train)
        keras_outcomes = run_keras(theirs, ours[0].stages, batches, train=train)
        pairs = [differences(*pair, module) for pair in zip(ours, keras_outcomes, strict=True)]
    return {key: max(pair[key] for pair in pairs) for key in pairs[0]}, ours


def outputs(name: str, *, train: bool) -> Kept:
    """What Keras has to say of a model, as `keras_outputs` keeps it.

    Args:
        name: of the model.
        train: a training step too, where there is to be one.
    """
    size = ALL[name].size
    with precision("float64"):
        theirs = keras_model(name, size)
        batch = keras_outputs.images(size).astype(np.float64)
        _, stages = _shapes(MODELS[name].build, size)
        (inference,) = run_keras(theirs, stages, [batch], train=False)
        digests = keras_outputs.digests(inference)
        if train and name == keras_outputs.TRAINED:
            module, stages = _shapes(keras_outputs.cut_model, size)
            last = theirs.get_layer(stages[-1]).output
            pooled = keras.layers.GlobalAveragePooling2D()(last)
            cut = keras.Model(theirs.inputs, pooled)
            (training,) = run_keras(cut, stages, [batch], train=True)
            digests |= keras_outputs.digests(in_our_terms(training, module), "training ")
    layers = [each for each in theirs.layers if isinstance(each, keras.layers.BatchNormalization)]
    order = keras_h5.creation_order(layer.name for layer in theirs.layers)
    return Kept(
        {key: tuple(variable.shape) for key, variable in variables(theirs).items()},
        {order.get(each.name, each.name): (each.epsilon, each.momentum) for each in layers},
        digests,
        {package.__name__: package.__version__ for package in (jax, keras, np)},
    )


def _shapes(build: Callable[..., nnx.Module], size: int) -> tuple[nnx.Module, list[str]]:
    """Our network in shapes alone, and the names of its stages."""
    module = functional.build_abstractly(build)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return module, list(nnx.eval_shape(lambda m, x: m.stages(x), module, x))


def genuine_features(weights_dir: pathlib.Path) -> np.ndarray:
    """Keras's features with the weights it publishes, from a folder that holds them."""
    name = keras_outputs.GENUINE
    path = sources.find_local(MODELS[name], weights_dir)
    model = getattr(keras.applications, ALL[name].application)(
        weights=str(path),
        include_top=False,
        input_shape=(96, 96, 3),
        pooling="avg",
        **ALL[name].options,
    )
    return np.asarray(model(keras_outputs.images(96)))


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Keras's outcomes as data for the tests.")
    parser.add_argument("--write", nargs="*", metavar="MODEL", help="which; without names: all")
    parser.add_argument("--genuine", metavar="FOLDER", help="with Keras's published weights")
    given = parser.parse_args()
    if given.genuine:
        keras_outputs.write_genuine(genuine_features(pathlib.Path(given.genuine)))
    if given.write is not None:
        for name in given.write or keras_outputs.KEPT:
            keras_outputs.write(name, outputs(name, train=True))
            print(name, flush=True)


if __name__ == "__main__":
    main()
