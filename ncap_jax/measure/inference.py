"""What a model costs to use: FLOPs, memory and time of labelling images, found without its weights.

What is counted and timed is the network with a linear head for the data's classes, in inference
mode. None of the figures depends on the weights' values, so nothing is read or downloaded.

    FLOPs     of one image that is scaled already, by XLA's own analysis of the program as it is
              written, before the compiler changes it: it is the same on every machine. A
              multiplication and the addition that follows it count as two.
    seconds   wall time of a batch from uint8 images in the machine's memory to their logits there,
              scaling included; the median of a few calls after the first one.
    memory    of the compiled program on the device, by XLA's own plan: weights, images, what is
              kept in between at the worst moment, logits.

Do not call it while something else computes: what is timed then is both.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax.finetune import steps
from ncap_jax.ops.dtypes import is_key
from ncap_jax.ops.effort import Jitted
from ncap_jax.types import InferenceCost, InferenceSpeed, ModelSpec
from ncap_jax.zoo import functional, operations, probe, shapes
from ncap_jax.zoo.preprocess import Preprocess
from ncap_jax.zoo.registry import MODELS

# One image that somebody waits for, and a batch that a collection of them is cut into.
BATCHES = (1, 64)
# Calls after the first: until they have taken these seconds, but at least one and at most as many.
ENOUGH_SECONDS, MOST_CALLS = 0.25, 30
_NOISE = 1 << 16  # different weights of a network; they are repeated


@dataclass(frozen=True)
class Setting:
    """What a model is used on.

    Attributes:
        image_shape: height, width and channels of an image.
        num_classes: K.
        input_size: side of the network's input in pixels; None: each model's own.
        dtype: compute dtype.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    input_size: int | None = None
    dtype: str = "float32"


class _Model(NamedTuple):
    """A network with its head, and the arrays that it takes; shapes alone where that suffices."""

    network: steps.Network
    params: Any
    state: Any


def cost(
    spec: ModelSpec, setting: Setting, *, counted: bool = True, measured: bool = False
) -> InferenceCost:
    """What is known of a model's use; whatever breaks on the way becomes its `problem`.

    Args:
        spec: the model.
        setting: what it is used on.
        counted: count its operations, for which a network may have to be traced.
        measured: time it as well, at the batch sizes in `BATCHES`.
    """
    found = InferenceCost(spec.parameters, licence=spec.licence)
    if not counted:
        return found
    try:
        found = dataclasses.replace(found, flops=flops_per_image(spec, setting))
        for batch in BATCHES if measured else ():
            speeds = (*found.speeds, speed(spec, setting, batch))
            found = dataclasses.replace(found, speeds=speeds)
    except Exception as error:  # of somebody else's code, or of a machine that is too small
        problem = f"{type(error).__name__}: {error}"[:200]
        return dataclasses.replace(found, problem=problem)
    return found


def flops_per_image(spec: ModelSpec, setting: Setting) -> float:
    """Operations of one scaled image, as XLA counts them; nothing is compiled.

    Of a model of the zoo at its own size the network's count is looked up: tracing a deep network
    takes a second. Others are counted once in a process, unless they are in memory, where they
    would stay for it.

    Raises:
        Exception: whatever the model raises.
    """
    size = setting.input_size or spec.input_size
    known: float | None = operations.FLOPS.get(spec.name)
    width = spec.feature_width
    if known is None or width is None or size != spec.input_size or MODELS.get(spec.name) != spec:
        kept = spec.build_pretrained is None and isinstance(spec.build, Hashable)
        known, width = (_counted if kept else count)(spec, size, setting.dtype)
    return known + _head_flops(width, setting.num_classes, setting.dtype)


def count(spec: ModelSpec, size: int, dtype: str = "float32") -> tuple[float, int]:
    """Operations of a network without head for one scaled image, and the width of its features.

    Args:
        spec: the model.
        size: side of the image in pixels.
        dtype: compute dtype.

    Raises:
        Exception: whatever the model raises.
    """
    module = shapes.shapes_of(spec, jnp.dtype(dtype))
    definition, params, state = functional.split(module)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.dtype(dtype))
    run = functional.Inference(definition, "features")
    lowered = jax.jit(run).lower(params, state, image)
    return _flops(lowered), lowered.out_info.shape[1]


_counted = functools.lru_cache(maxsize=256)(count)


@functools.lru_cache(maxsize=256)
def _head_flops(width: int, num_classes: int, dtype: str) -> float:
    head, params, state = probe.linear_head_shapes(width, num_classes, dtype=jnp.dtype(dtype))
    features = jax.ShapeDtypeStruct((1, width), jnp.float32)

    def logits(params: Any, state: Any, features: jax.Array) -> jax.Array:
        return steps.head_logits(head, params, state, features, train=False)[0]

    return _flops(jax.jit(logits).lower(params, state, features))


def _flops(lowered: Any) -> float:
    found: Any = lowered.cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def speed(spec: ModelSpec, setting: Setting, batch: int) -> InferenceSpeed:
    """Time and memory of a batch on this machine, with random weights.

    Args:
        spec: the model.
        setting: what it is used on.
        batch: number of images.

    Raises:
        Exception: whatever the model raises, or that the memory does not suffice.
    """
    model = _model(spec, setting)
    shape = (batch, *setting.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels = jax.ShapeDtypeStruct(shape, jnp.uint8)
    program = _logits.at("full").lower(model.network, model.params, model.state, pixels).compile()
    arrays = jax.device_put((_drawn(model.params), _drawn(model.state)))

    def label() -> None:
        np.asarray(program(*arrays, images))

    return InferenceSpeed(batch, median_seconds(label), _memory(program))


def median_seconds(call: Callable[[], None], clock: Callable[[], float] | None = None) -> float:
    """The median of what a call takes once it has been called before.

    Args:
        call: returns when its work is done.
        clock: seconds; None: `time.perf_counter`.
    """
    clock = clock or time.perf_counter
    call()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < MOST_CALLS):
        start = clock()
        call()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def _model(spec: ModelSpec, setting: Setting) -> _Model:
    """A model with a linear head, of shapes alone where its builder can do that."""
    dtype = jnp.dtype(setting.dtype)
    module = shapes.shapes_of(spec, dtype)
    definition, params, state = functional.split(module)
    size = setting.input_size or spec.input_size
    width = spec.feature_width or shapes.feature_width(module, size)
    head, *arrays = probe.linear_head_shapes(width, setting.num_classes, dtype=dtype)
    scaled = Preprocess(spec.preprocessing, size, dtype)
    return _Model(
        steps.Network(definition, head, scaled, ()),
        *({"backbone": one, "head": other} for one, other in zip((params, state), arrays)),
    )


def _logits_of(network: steps.Network, params: Any, state: Any, images: jax.Array) -> jax.Array:
    """(batch, classes), and no state, which would be copied."""
    logits, _ = steps.forward(network, params, state, images, train=False)
    return logits[0]


_logits = Jitted(_logits_of, static_argnames="network")


def _drawn(tree: Any) -> Any:
    """Arrays for shapes: weights that keep activations of about one size; all else is 1, or 0.

    Activations that shrank from layer to layer would end in numbers that processors are slow with.
    """
    noise = np.random.default_rng(0).standard_normal(_NOISE).astype(np.float32)

    def draw(leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return np.ones(leaf.shape, leaf.dtype)
        inputs = max(1, int(np.prod(leaf.shape[:-1])))
        return (np.resize(noise, leaf.shape) / np.sqrt(inputs)).astype(leaf.dtype)

    return jax.tree.map(draw, tree)


def _memory(program: Any) -> int | None:
    """Bytes of a compiled program on the device; None where its compiler does not tell."""
    plan = program.memory_analysis()
    if plan is None:
        return None
    parts: Sequence[int] = (
        plan.argument_size_in_bytes,
        plan.output_size_in_bytes,
        plan.temp_size_in_bytes,
        -plan.alias_size_in_bytes,
    )
    return int(sum(parts))
