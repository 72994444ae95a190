r"""Images per second of a fine-tuning step, ours against a rival's; seconds to the first step.

    python -m benchmarks.zoo --output=benchmarks/results/zoo_cpu.json
    python -m benchmarks.zoo --rival=torch --batch=64 --size=224 --dtype=bfloat16 --steps=20 \
        --processes=8 --output=benchmarks/results/zoo_gpu.json

1. `throughput`: forward, backward, Adam and the running averages of a backbone with a fresh linear
   classifier of 10 classes, whole network trained. The rivals (`benchmarks.zoo_rivals`): Keras 3
   on its JAX backend, with its own `train_on_batch`, or PyTorch with the definitions of torchvision
   and timm, compiled by `torch.compile`, channels last. Both start from random weights, get the
   same images and take turns in one process. Target: a ratio of at least 1.0 for each family.
   With `--processes`, that many models compile at a time, each in a process of its own; once they
   are ready they are measured one after the other, nothing else running. A model that is not
   ready after `--patience` seconds is left out. `--profile` adds where the time goes on a GPU.
   `--rival=torch_graphs` replays PyTorch's step as CUDA graphs, `--rival=none` measures ours alone;
   `--slices` takes its max pools by shifted slices and `--xla` compiles it with these options.
2. `start`: seconds from the start of a fresh process to the end of its first step, with an empty
   and with a filled folder of compiled programs; and of that, seconds spent compiling.
3. `repeated`: eight equal bottleneck blocks, unrolled and as one `lax.scan` over stacked weights:
   seconds to compile the gradient, milliseconds to run it. It decides how the zoo is written.

An existing output file is added to, so that one model or section at a time may run.

A time is that of `--steps` steps one after the other, waiting for the last, divided by their
number; of `--repeats` such times the fastest counts and the median is kept beside it. `cpu_ms` is
the time of all threads: on a machine that others use it is the figure to compare, on an accelerator
it means nothing. The defaults suit a small CPU.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

# The rival, and other models' processes, need their share of an accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from benchmarks import timing, zoo_profile, zoo_rivals
from ncap_jax import caching
from ncap_jax.ops import pooling
from ncap_jax.run import facts
from ncap_jax.zoo import MODELS, functional
from ncap_jax.zoo.resnet import Bottleneck

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_MODELS = flags.DEFINE_list(
    "models",
    [
        *("mobilenet", "mobilenetv2", "vgg16", "resnet50", "resnet50v2", "densenet121"),
        *("inceptionv3", "inceptionresnetv2", "xception"),
    ],
    "Names of models in the registry that the rival has too.",
)
_RIVAL = flags.DEFINE_enum(
    "rival", "keras", [*zoo_rivals.STEPS, "none"], "What ours is compared with."
)
_SLICES = flags.DEFINE_bool("slices", False, "Max pools whose windows do not overlap, by slices.")
_XLA = flags.DEFINE_list("xla", [], "Options for the compilation of our step, name=value.")
_ANEW = flags.DEFINE_bool("anew", False, "Compile without the folder of compiled programs.")
_COMPILE_ONLY = flags.DEFINE_bool(
    "compile_only", False, "Compile both sides of `throughput`, for the caches; measure nothing."
)
_BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 96, "Side of the images in pixels.", lower_bound=32)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Times of each; the fastest counts.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1, "Steps in one timing.", lower_bound=1)
_PROCESSES = flags.DEFINE_integer(
    "processes", 0, "Models that compile at a time, in processes; 0: one by one in this process."
)
_PATIENCE = flags.DEFINE_float("patience", 3600, "Seconds that processes may take to compile.")
_PROFILE = flags.DEFINE_bool("profile", False, "Add `benchmarks.zoo_profile` of both; on a GPU.")
_SECTIONS = flags.DEFINE_list(
    "sections", ["throughput", "start", "repeated"], "Which parts to run."
)
_THROUGHPUT_OF = flags.DEFINE_string(
    "throughput_of", None, "Internal: compile one model, wait for a line, measure it."
)
_FIRST_STEP_OF = flags.DEFINE_string("first_step_of", None, "Internal: run one model's first step.")

CLASSES = 10
RATE = 1e-4
# Model -> seconds in which our step was compiled, or read from the cache.
COMPILING: dict[str, float] = {}


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.2, 1, (_BATCH.value, _SIZE.value, _SIZE.value, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, _BATCH.value).astype(np.int32)


def our_step(name: str) -> Callable[[], Any]:
    """A call that takes one step of our network and returns the loss; compiled, not yet run."""
    spec = MODELS[name]
    assert spec.feature_width is not None, "models of the zoo state it"
    dtype = None if _DTYPE.value == "float32" else jnp.bfloat16
    static, params, state = functional.split(spec.build(rngs=nnx.Rngs(0), dtype=dtype))
    head = {
        "kernel": jax.random.normal(jax.random.key(1), (spec.feature_width, CLASSES)) * 0.01,
        "bias": jnp.zeros(CLASSES),
    }
    optimizer = optax.adam(RATE)
    carry = [((params, head), state, optimizer.init((params, head)))]
    images, labels = map(jnp.asarray, batch())

    def step(
        trainable: Any, state: Any, moments: Any, x: jax.Array, y: jax.Array
    ) -> tuple[Any, jax.Array]:
        def loss(trainable: Any) -> tuple[jax.Array, Any]:
            params, head = trainable
            features, moved = functional.apply(static, params, state, x, train=True)
            logits = features @ head["kernel"] + head["bias"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), moved

        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, moments = optimizer.update(grads, moments, trainable)
        return (optax.apply_updates(trainable, updates), moved, moments), value

    lowered = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*carry[0], images, labels)
    begin = time.perf_counter()
    compiled = lowered.compile(compiler_options=xla_options())
    COMPILING[name] = time.perf_counter() - begin

    def run() -> jax.Array:
        carry[0], value = compiled(*carry[0], images, labels)
        return value

    return run


def xla_options() -> dict[str, str | bool]:
    """What `--xla` says."""
    pairs = (option.partition("=") for option in _XLA.value)
    return {name: value for name, _, value in pairs}


def contenders(name: str) -> dict[str, Callable[[], Any]]:
    """A step of ours and of the rival's, compiled."""
    if _RIVAL.value == "none":
        return {"ours": our_step(name)}
    rival = zoo_rivals.STEPS[_RIVAL.value]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ours = pool.submit(our_step, name)  # XLA compiles beside the rival's Python
        theirs = rival(name, *batch(), CLASSES, RATE, _DTYPE.value)
        zoo_rivals.wait(theirs())  # it compiles when it is first called
        zoo_rivals.release()
        return {"ours": ours.result(), _RIVAL.value: theirs}


def compare(steps: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Milliseconds of a step and images per second of both, and the ratios."""

    def several(step: Callable[[], Any]) -> None:
        for _ in range(_STEPS.value):
            result = step()
        zoo_rivals.wait(result)

    calls = {who: partial(several, step) for who, step in steps.items()}
    times: dict[str, Any] = {
        who: {key: value / _STEPS.value for key, value in row.items()}
        for who, row in timing.take_turns(calls, _REPEATS.value).items()
    }
    rates = {n: 1e3 * _BATCH.value / t["wall_ms"] for n, t in times.items()}
    if _RIVAL.value == "none":
        return times | {"images_per_s": rates}
    ours, rival = times["ours"], times[_RIVAL.value]
    ratios = {
        "images_per_s": rates,
        "ratio_wall": rival["wall_ms"] / ours["wall_ms"],
        "ratio_median": rival["median_ms"] / ours["median_ms"],
        "ratio_cpu": rival["cpu_ms"] / max(ours["cpu_ms"], 1e-9),
    }
    return times | ratios


def profiles(steps: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Where the time of both goes, or why that is not known; empty without `--profile`."""
    if not _PROFILE.value:
        return {}
    tools = dict.fromkeys(("torch", "torch_graphs"), zoo_profile.profile_torch)
    try:
        return {
            "profile": {
                who: tools.get(who, zoo_profile.profile_jax)(step) for who, step in steps.items()
            }
        }
    except Exception as error:  # a profiler that fails costs no times
        return {"no_profile": f"{type(error).__name__}: {error}"}


def throughput() -> dict[str, Any]:
    """Images per second of both, model by model."""
    rows: dict[str, Any] = {}
    for name, row in side_by_side() if _PROCESSES.value else one_by_one():
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    return rows


def one_by_one() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model in this process."""
    for name in _MODELS.value:
        steps = contenders(name)
        if not _COMPILE_ONLY.value:
            yield name, compare(steps) | {"compile_s": COMPILING.get(name)} | profiles(steps)


def side_by_side() -> Iterator[tuple[str, dict[str, Any]]]:
    """`--processes` models at a time compile in processes of their own, and are measured in turns.

    A model whose process fails, or is not ready in time, is reported and left out.
    """
    settings = (_BATCH, _SIZE, _DTYPE, _RIVAL, _REPEATS, _STEPS, _PROFILE)
    command = [sys.executable, "-m", "benchmarks.zoo", *(f"--{f.name}={f.value}" for f in settings)]
    names = iter(_MODELS.value)
    while together := list(itertools.islice(names, _PROCESSES.value)):
        workers = {
            name: subprocess.Popen(
                [*command, f"--throughput_of={name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in together
        }
        ready = wait_for(workers)
        for name in together:
            if name not in ready:
                workers[name].kill()
                workers[name].wait()
                print(f"{name}: failed, or was not ready in time", file=sys.stderr, flush=True)
        for name in ready:
            try:
                answer, _ = workers[name].communicate("go\n", timeout=_PATIENCE.value)
            except subprocess.TimeoutExpired:
                workers[name].kill()
                answer, _ = workers[name].communicate()
            rows = [json.loads(line) for line in answer.splitlines() if line.startswith("{")]
            if not rows:
                print(f"{name}: failed", file=sys.stderr, flush=True)
            else:
                yield name, dict(itertools.chain.from_iterable(row.items() for row in rows))


def wait_for(workers: dict[str, subprocess.Popen]) -> list[str]:
    """The names of the workers that reported ready, once all have or the time is over."""
    start, ready = time.monotonic(), []

    def listen(name: str, worker: subprocess.Popen) -> None:
        assert worker.stdout is not None
        if any(line == "ready\n" for line in iter(worker.stdout.readline, "")):
            ready.append(name)
            print(f"{name}: ready after {time.monotonic() - start:.0f} s", flush=True)

    threads = [threading.Thread(target=listen, args=pair, daemon=True) for pair in workers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, start + _PATIENCE.value - time.monotonic()))
    return list(ready)


def throughput_of(name: str) -> None:
    """A process of `side_by_side`."""
    steps = contenders(name)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(compare(steps) | {"compile_s": COMPILING.get(name)}), flush=True)
    print(json.dumps(profiles(steps)), flush=True)


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
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, side, side, 4 * width)), jnp.float32)
    rows, calls = {}, {}
    for name, (loss, arrays) in block_losses(blocks, width).items():
        lowered = jax.jit(jax.grad(loss, has_aux=True, allow_int=True)).lower(arrays, x)
        wall, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        rows[name] = {
            "compile_s": time.perf_counter() - wall,
            "compile_cpu_s": time.process_time() - cpu,
        }
        calls[name] = partial(compiled, arrays, x)
    for name, times in timing.take_turns(calls, _REPEATS.value).items():
        rows[name] |= times
    print("repeated", json.dumps(rows), flush=True)
    return rows


def block_losses(blocks: int, width: int) -> dict[str, tuple[Callable, Any]]:
    """Loss of equal bottleneck blocks in a row, and its arrays: unrolled and as one scan."""
    modules = [
        Bottleneck(4 * width, width, 1, f"b{i}", project=False, dtype=None, rngs=nnx.Rngs(i))
        for i in range(blocks)
    ]
    parts = [functional.split(module) for module in modules]
    static = parts[0][0]
    unrolled = [(params, state) for _, params, state in parts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *unrolled)

    def block(x: jax.Array, arrays: Any) -> tuple[jax.Array, Any]:
        params, state = arrays
        return functional.apply(static, params, state, x, train=True, method="__call__")

    def loss_unrolled(arrays: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        states = []
        for pair in arrays:
            x, state = block(x, pair)
            states.append(state)
        return jnp.mean(x**2), states

    def loss_scanned(arrays: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        x, states = jax.lax.scan(block, x, arrays)
        return jnp.mean(x**2), states

    return {"unrolled": (loss_unrolled, unrolled), "scanned": (loss_scanned, stacked)}


def main(argv: list[str]) -> None:
    """Run the sections and write them with the environment beside them."""
    del argv
    if _THROUGHPUT_OF.value:
        throughput_of(_THROUGHPUT_OF.value)
        return
    if _FIRST_STEP_OF.value:
        first_step(_FIRST_STEP_OF.value)
        return
    jax.config.update("jax_enable_compilation_cache", not _ANEW.value)
    if _SLICES.value:
        pooling.by_slices = pooling.do_not_overlap
    known = zoo_rivals.networks(_RIVAL.value, MODELS)
    if unknown := sorted(set(_MODELS.value) - set(known)):
        raise app.UsageError(
            f"{', '.join(unknown)}: not in {_RIVAL.value}; give some of {', '.join(known)}"
        )
    sections = {"throughput": throughput, "start": start, "repeated": repeated}
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    result: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    settings = {"batch": _BATCH.value, "size": _SIZE.value, "dtype": _DTYPE.value}
    if any(result.get(key, value) != value for key, value in settings.items()):
        raise app.UsageError(f"{path} holds results of another batch, size or dtype")
    environment = {**facts.describe(), "rivals": zoo_rivals.versions()}
    result |= {"environment": environment, **settings}
    for name in _SECTIONS.value:
        result[name] = {**result.get(name, {}), **sections[name]()}
    if path and not _COMPILE_ONLY.value:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
