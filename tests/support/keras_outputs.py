"""What Keras Applications' networks do, as data: weights and images from a seed, outputs on file.

Building and compiling a network in Keras takes longer than everything else in its comparison. So
Keras's outcomes are computed once, in float64, and kept in `tests/support/data/keras/<model>.npz`:

    python -m tests.support.keras_parity --write
    python -m tests.support.keras_parity --genuine=../shared/data/weights

Weights and images are drawn by NumPy from `SEED`; of an outcome a sample is kept (`digest`). One
file holds, for a model, the names and shapes of Keras's weights, epsilon and momentum of its batch
norms, the digests, and the versions that made it.
"""

from __future__ import annotations

import json
import math
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.zoo import MODELS, functional
from ncap_jax.zoo.layers import BatchNorm
from ncap_jax.zoo.mobilenet import MobileNet
from ncap_jax.zoo.weights import keymap, store

FOLDER = pathlib.Path(__file__).parent / "data" / "keras"
SEED = 20
SAMPLES = 2
# Half the compile time, and one thread to a sum: see `keras_parity`.
OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
if jax.default_backend() == "cpu":
    OPTIONS["xla_cpu_multi_thread_eigen"] = False
jit = partial(jax.jit, compiler_options=OPTIONS)
# Largest relative error allowed (docs/numerics.md).
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
# How many entries of an array are kept; fewer of the many leaves of a training step.
ENTRIES, LEAF_ENTRIES = 96, 16


class Case(NamedTuple):
    """A model of the zoo: its name in Keras, an odd size of input, options of Keras's builder."""

    application: str
    size: int = 47
    options: Mapping[str, Any] = {}


CASES: dict[str, Case] = {
    "vgg16": Case("VGG16", 33),
    "vgg19": Case("VGG19", 33),
    "resnet50": Case("ResNet50"),
    "resnet101": Case("ResNet101"),
    "resnet152": Case("ResNet152"),
    "resnet50v2": Case("ResNet50V2"),
    "resnet101v2": Case("ResNet101V2"),
    "resnet152v2": Case("ResNet152V2"),
    "densenet121": Case("DenseNet121"),
    "densenet169": Case("DenseNet169"),
    "densenet201": Case("DenseNet201"),
    "mobilenet": Case("MobileNet", 65),
    "mobilenetv2": Case("MobileNetV2", 65),
    "inceptionv3": Case("InceptionV3", 79),
    "inceptionresnetv2": Case("InceptionResNetV2", 79),
    "xception": Case("Xception", 79),
}
VARIANTS: dict[str, Case] = {
    "mobilenet_025": Case("MobileNet", 33, {"alpha": 0.25}),
    "mobilenet_050": Case("MobileNet", 33, {"alpha": 0.5}),
    "mobilenet_075": Case("MobileNet", 33, {"alpha": 0.75}),
    "mobilenetv2_035": Case("MobileNetV2", 33, {"alpha": 0.35}),
    "mobilenetv2_050": Case("MobileNetV2", 33, {"alpha": 0.5}),
    "mobilenetv2_075": Case("MobileNetV2", 33, {"alpha": 0.75}),
    "mobilenetv2_130": Case("MobileNetV2", 33, {"alpha": 1.3}),
    "mobilenetv2_140": Case("MobileNetV2", 33, {"alpha": 1.4}),
}
ALL = CASES | VARIANTS
# One of each family is on file; of the first blocks of the smallest, a training step too.
KEPT = (
    *("vgg16", "resnet50", "resnet50v2", "densenet121", "mobilenet_025", "mobilenetv2_035"),
    *("inceptionv3", "inceptionresnetv2", "xception"),
)
TRAINED = "mobilenet_025"
TRAINED_BLOCKS = 3
# Keras's features with this model's genuine weights, of `images(96)`, are on file as well.
GENUINE = "mobilenet_025"


class Outcome(NamedTuple):
    """What one network does with one batch, everything under published names."""

    features: np.ndarray
    stages: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]  # running averages after the step; empty in inference
    gradients: dict[str, np.ndarray]  # of a scalar loss by parameter; empty in inference


class Kept(NamedTuple):
    """The content of one file.

    Attributes:
        weights: Keras's name of every weight -> its shape.
        norms: name of every batch norm -> epsilon and momentum.
        digests: `features`, `stage <name>`, and in training `running <leaf>`,
            `gradient <leaf>` of our state -> `digest`; with the prefix `training ` those of a
            training step of `TRAINED`, cut behind its first `TRAINED_BLOCKS` blocks.
        versions: package -> version.
    """

    weights: dict[str, tuple[int, ...]]
    norms: dict[str, tuple[float, float]]
    digests: dict[str, np.ndarray]
    versions: dict[str, str]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight by Keras's name: float32, statistics of batch norms as well."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    kind = name.rsplit("/", 1)[-1]
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind in ("beta", "bias", "moving_mean"):
        return rng.normal(0, 0.2, shape).astype(np.float32)
    limit = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return (2 * rng.random(shape, np.float32) - 1) * np.float32(limit)


def images(size: int, samples: int = SAMPLES) -> np.ndarray:
    """Images of different means, none of them zero, and different spreads; float32."""
    rng = np.random.default_rng(SEED)
    moments = [((0.4, 1.0), (-0.9, 0.5))[i % 2] for i in range(samples)]
    return np.stack([rng.normal(m, s, (size, size, 3)) for m, s in moments]).astype(np.float32)


def loss_of(features: jax.Array) -> jax.Array:
    """The scalar whose gradient is compared: mean over the batch of weighted features."""
    weights = np.random.default_rng(7).normal(size=features.shape[-1])
    return jnp.mean((features + 0.5 * features**2) @ jnp.asarray(weights, features.dtype))


def digest(name: str, array: np.ndarray) -> np.ndarray:
    """Mean, root mean square and largest entry, and entries at places drawn by the name."""
    flat = np.asarray(array, np.float64).ravel()
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    entries = LEAF_ENTRIES if name.startswith(("running ", "gradient ")) else ENTRIES
    places = rng.choice(flat.size, min(flat.size, entries), replace=False)
    moments = [flat.mean(), np.sqrt(np.mean(flat**2)), np.abs(flat).max()]
    return np.concatenate([moments, flat[places]])


def digests(outcome: Outcome, prefix: str = "") -> dict[str, np.ndarray]:
    """The digest of everything in an outcome; statistics and gradients under our leaves' names."""
    parts = {
        "features": {"features": outcome.features},
        "stage ": outcome.stages,
        "running ": outcome.statistics,
        "gradient ": outcome.gradients,
    }
    named = {
        kind if kind == "features" else kind + name: value
        for kind, values in parts.items()
        for name, value in values.items()
    }
    return {prefix + name: digest(name, value) for name, value in named.items()}


def differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Largest difference of each digest over the array's largest entry.

    Some gradients are zero in exact arithmetic (a bias that the next batch norm subtracts again);
    there is nothing but rounding in them, which is measured against the median over all leaves.
    """
    largest = {name: theirs[name][2] for name in theirs}
    gradients = [value for name, value in largest.items() if "gradient " in name]
    typical = float(np.median(gradients)) if gradients else 0.0
    found = {}
    for name, expected in theirs.items():
        rounding = "gradient " in name and largest[name] < 1e-4 * typical
        scale = typical if rounding else largest[name]
        found[name] = float(np.abs(ours[name] - expected).max() / (scale or 1.0))
    return found


def our_model(
    build: Callable[..., nnx.Module], weights: Mapping[str, tuple[int, ...]], dtype: str
) -> nnx.Module:
    """Our network with the drawn weights, arrays of `dtype`; weights beyond it are left out."""
    module = functional.build_to_fill(build, seed=0)
    known = keymap.published_names(module, weights, "keras")
    beyond = [name for name in weights if name not in known]
    assert build is cut_model or not beyond
    arrays = {name: draw(name, shape) for name, shape in weights.items() if name in known}
    store.assign(module, keymap.rename(module, arrays, "keras"), "the drawn weights")
    if dtype != "float32":
        for _, leaf in nnx.to_flat_state(nnx.state(module)):
            leaf.set_value(jnp.asarray(leaf[...], dtype))
    return module


cut_model = partial(MobileNet, 0.25, TRAINED_BLOCKS)


def run(module: nnx.Module, batches: Iterable[np.ndarray], *, train: bool) -> list[Outcome]:
    """Our outcomes, under the dotted paths of our state."""
    (module.train if train else module.eval)()
    graphdef, params, state = nnx.split(module, nnx.Param, ...)

    def loss(params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graphdef, params, state, copy=True)
        stages = model.stages(x)
        # In training one pass only: a second would move the running averages twice.
        *_, last = stages.values()
        features = jnp.mean(last, axis=(1, 2)) if train else model.features(x)
        return loss_of(features), (features, stages, nnx.split(model, nnx.Param, ...)[2])

    step = jit(jax.grad(loss, has_aux=True) if train else loss)
    outcomes = []
    for x in batches:
        first, second = step(params, state, x)
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


def _flat(state: Any) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def read(name: str) -> Kept:
    """What is on file of a model."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    facts = json.loads(str(arrays.pop("facts")))
    weights = {key: tuple(shape) for key, shape in facts["weights"].items()}
    norms = {key: tuple(pair) for key, pair in facts["norms"].items()}
    return Kept(weights, norms, arrays, facts["versions"])


def write(name: str, kept: Kept) -> None:
    """Put a model's content on file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    facts = json.dumps({"weights": kept.weights, "norms": kept.norms, "versions": kept.versions})
    # Inference is compared in float32, training in float64: with all its digits.
    arrays: dict[str, Any] = {
        key: value if key.startswith("training ") else value.astype(np.float32)
        for key, value in kept.digests.items()
    }
    np.savez_compressed(FOLDER / f"{name}.npz", facts=np.array(facts), **arrays)


def read_genuine() -> np.ndarray:
    """Keras's features of `images(96)` with genuine weights."""
    return np.load(FOLDER / "genuine" / f"{GENUINE}.npy")


def write_genuine(features: np.ndarray) -> None:
    """Put those features on file."""
    (FOLDER / "genuine").mkdir(parents=True, exist_ok=True)
    np.save(FOLDER / "genuine" / f"{GENUINE}.npy", np.asarray(features, np.float32))


def norms_of(module: nnx.Module) -> dict[str, tuple[float, float]]:
    """Published name of every batch norm of ours -> epsilon and momentum."""
    layers: Iterable[tuple[Any, Any]] = nnx.iter_modules(module)
    return {
        layer.name: (layer.epsilon, layer.momentum)
        for _, layer in layers
        if isinstance(layer, BatchNorm)
    }


def check_inference(name: str) -> None:
    """Our network in float32 does what Keras's does: every stage, the features, the settings.

    Raises:
        AssertionError: it does not.
    """
    kept, spec = read(name), MODELS[name]
    module = our_model(spec.build, kept.weights, "float32")
    assert norms_of(module) == kept.norms
    (outcome,) = run(module, [images(ALL[name].size)], train=False)
    assert outcome.features.shape == (SAMPLES, spec.feature_width)
    assert np.abs(outcome.features).max() > 1e-3  # no comparison of zeros
    theirs = {key: value for key, value in kept.digests.items() if "training " not in key}
    # Keras leaves the sum in the last block of Inception-ResNet v2 unnamed.
    assert set(digests(outcome)) - set(theirs) <= {"stage block8_10_sum"}
    _check(digests(outcome), theirs, "float32")


def check_training() -> None:
    """A training step of ours in float64 does what Keras's does: gradients, running averages.

    Raises:
        AssertionError: it does not.
    """
    kept = read(TRAINED)
    with jax.enable_x64(True):
        module = our_model(cut_model, kept.weights, "float64")
        batch = images(ALL[TRAINED].size).astype(np.float64)
        (outcome,) = run(module, [batch], train=True)
    theirs = {key: value for key, value in kept.digests.items() if "training " in key}
    assert sum("gradient " in key for key in theirs) == len(outcome.gradients) > 0
    assert sum("running " in key for key in theirs) == len(outcome.statistics) > 0
    _check(digests(outcome, "training "), theirs, "float64")


def _check(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], dtype: str) -> None:
    errors = differences(ours, theirs)
    # `not <=`: NaN fails too.
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE[dtype]}
    assert not wrong
