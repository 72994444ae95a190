"""Images per second of a fine-tuning step: ours against Keras 3 on JAX; seconds to the first step.

    python -m benchmarks.zoo --output=benchmarks/results/zoo_cpu.json
    python -m benchmarks.zoo --models=resnet50 --batch=64 --size=224 --dtype=bfloat16

1. `throughput`: forward, backward, Adam and the running averages of a backbone with a fresh linear
   classifier of 10 classes, whole network trained. Keras's step is its own `train_on_batch`, with
   the policy `mixed_bfloat16` for bfloat16. Both start from random weights, get the same images
   and take turns in one process. Target: a ratio of 1.0 at least for each family.
2. `start`: seconds from the start of a fresh process to the end of its first step, with an empty
   and with a filled folder of compiled programs; and of that, seconds spent compiling.
3. `repeated`: eight equal bottleneck blocks, unrolled and as one `lax.scan` over stacked weights:
   seconds to compile the gradient, milliseconds to run it. It decides how the zoo is written.

An existing output file is added to, so that one model or section at a time may run.

Times are the fastest of some calls. `cpu_ms` is the time of all threads: on a machine that others
use it is the figure to compare. The defaults suit a small CPU; on an accelerator give
`--batch=64 --size=224`.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from benchmarks import timing
from ncap_jax import caching, environment
from ncap_jax.zoo import MODELS, functional
from ncap_jax.zoo.resnet import Bottleneck

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_MODELS = flags.DEFINE_list(
    "models",
    [
        *("mobilenet", "mobilenetv2", "vgg16", "resnet50", "resnet50v2", "densenet121"),
        *("inceptionv3", "inceptionresnetv2", "xception"),
    ],
    "Names of Keras models in the registry.",
)
_BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 96, "Side of the images in pixels.", lower_bound=32)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Steps of each; the fastest counts.", lower_bound=1)
_SECTIONS = flags.DEFINE_list(
    "sections", ["throughput", "start", "repeated"], "Which parts to run."
)
_FIRST_STEP_OF = flags.DEFINE_string("first_step_of", None, "Internal: run one model's first step.")

CLASSES = 10
RATE = 1e-4
# Names that Keras Applications writes otherwise than in capitals of ours.
KERAS = {
    "mobilenet": "MobileNet",
    "mobilenetv2": "MobileNetV2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "resnet50v2": "ResNet50V2",
    "resnet101v2": "ResNet101V2",
    "resnet152v2": "ResNet152V2",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "inceptionv3": "InceptionV3",
    "inceptionresnetv2": "InceptionResNetV2",
    "xception": "Xception",
}


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.2, 1, (_BATCH.value, _SIZE.value, _SIZE.value, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, _BATCH.value).astype(np.int32)


def our_step(name: str) -> Callable[[], Any]:
    """A call that takes one step of our network and returns the loss."""
    spec = MODELS[name]
    dtype = None if _DTYPE.value == "float32" else jnp.bfloat16
    static, params, state = functional.split(spec.build(rngs=nnx.Rngs(0), dtype=dtype))
    head = {
        "kernel": jax.random.normal(jax.random.key(1), (spec.feature_width, CLASSES)) * 0.01,
        "bias": jnp.zeros(CLASSES),
    }
    optimizer = optax.adam(RATE)
    carry = [((params, head), state, optimizer.init((params, head)))]
    images, labels = map(jnp.asarray, batch())

    def step(trainable, state, moments, x, y):
        def loss(trainable):
            params, head = trainable
            features, moved = functional.apply(static, params, state, x, train=True)
            logits = features @ head["kernel"] + head["bias"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), moved

        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, moments = optimizer.update(grads, moments, trainable)
        return (optax.apply_updates(trainable, updates), moved, moments), value

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))

    def run():
        carry[0], value = compiled(*carry[0], images, labels)
        return value

    return run


def keras_step(name: str) -> Callable[[], Any]:
    """The same for Keras, through its own `train_on_batch`."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if _DTYPE.value == "bfloat16" else "float32")
    build = getattr(keras.applications, KERAS[name])
    shape = (_SIZE.value, _SIZE.value, 3)
    base = build(weights=None, include_top=False, input_shape=shape, pooling="avg")
    logits = keras.layers.Dense(CLASSES, dtype="float32")(base.output)
    model = keras.Model(base.input, logits)
    model.compile(
        optimizer=keras.optimizers.Adam(RATE, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    images, labels = map(jnp.asarray, batch())
    return lambda: model.train_on_batch(images, labels)


def throughput() -> dict[str, Any]:
    """Images per second of both, model by model."""
    rows: dict[str, Any] = {}
    for name in _MODELS.value:
        steps = {"ours": our_step(name), "keras": keras_step(name)}
        times = timing.take_turns(steps, _REPEATS.value)
        rows[name] = {
            **times,
            "images_per_s": {n: 1e3 * _BATCH.value / t["wall_ms"] for n, t in times.items()},
            "ratio_wall": times["keras"]["wall_ms"] / times["ours"]["wall_ms"],
            "ratio_cpu": times["keras"]["cpu_ms"] / max(times["ours"]["cpu_ms"], 1e-9),
        }
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def first_step(name: str) -> None:
    """Run one step in this process and print when it was done and how long compiling took."""
    caching.keep_compiled_programs()
    seconds = {"compile": 0.0}

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds["compile"] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.block_until_ready(our_step(name)())
    print(json.dumps(seconds))


def start() -> dict[str, Any]:
    """Seconds to the first step in fresh processes, with an empty and with a filled cache."""
    rows: dict[str, Any] = {}
    shape = [f"--{flag.name}={flag.value}" for flag in (_BATCH, _SIZE, _DTYPE)]
    for name in _MODELS.value:
        command = [sys.executable, "-m", "benchmarks.zoo", f"--first_step_of={name}", *shape]
        rows[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            environ = {**os.environ, "NCAP_CACHE": folder}
            environ.pop("JAX_COMPILATION_CACHE_DIR", None)
            for cache in ("empty", "filled"):
                begin = time.perf_counter()
                done = subprocess.run(
                    command, env=environ, check=True, capture_output=True, text=True
                )
                seconds = json.loads(done.stdout.splitlines()[-1])
                rows[name][cache] = {"first_step_s": time.perf_counter() - begin, **seconds}
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def repeated(blocks: int = 8, width: int = 64, side: int = 14) -> dict[str, Any]:
    """Compile and run time of equal blocks, unrolled and scanned."""
    modules = [
        Bottleneck(4 * width, width, 1, False, f"b{i}", dtype=None, rngs=nnx.Rngs(i))
        for i in range(blocks)
    ]
    parts = [functional.split(module) for module in modules]
    static = parts[0][0]
    unrolled = [(params, state) for _, params, state in parts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *unrolled)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, side, side, 4 * width)), jnp.float32)

    def block(x, arrays):
        params, state = arrays
        return functional.apply(static, params, state, x, train=True, method="__call__")

    def loss_unrolled(arrays, x):
        states = []
        for pair in arrays:
            x, state = block(x, pair)
            states.append(state)
        return jnp.mean(x**2), states

    def loss_scanned(arrays, x):
        x, states = jax.lax.scan(block, x, arrays)
        return jnp.mean(x**2), states

    rows, calls = {}, {}
    for name, loss, arrays in (
        ("unrolled", loss_unrolled, unrolled),
        ("scanned", loss_scanned, stacked),
    ):
        lowered = jax.jit(jax.grad(loss, has_aux=True, allow_int=True)).lower(arrays, x)
        wall, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        rows[name] = {
            "compile_s": time.perf_counter() - wall,
            "compile_cpu_s": time.process_time() - cpu,
        }
        calls[name] = lambda compiled=compiled, arrays=arrays: compiled(arrays, x)
    for name, times in timing.take_turns(calls, _REPEATS.value).items():
        rows[name] |= times
    print("repeated", json.dumps(rows), flush=True)
    return rows


def main(argv: list[str]) -> None:
    """Run the sections and write them with the environment beside them."""
    del argv
    if _FIRST_STEP_OF.value:
        first_step(_FIRST_STEP_OF.value)
        return
    sections = {"throughput": throughput, "start": start, "repeated": repeated}
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    result: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    settings = {"batch": _BATCH.value, "size": _SIZE.value, "dtype": _DTYPE.value}
    if any(result.get(key, value) != value for key, value in settings.items()):
        raise app.UsageError(f"{path} holds results of another batch, size or dtype")
    result |= {"environment": environment.describe(), **settings}
    for name in _SECTIONS.value:
        result[name] = {**result.get(name, {}), **sections[name]()}
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
