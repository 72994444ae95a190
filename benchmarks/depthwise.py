"""Depthwise convolution: ours against XLA's, value and both gradients, and what compiling it costs.

    python -m benchmarks.depthwise --output=benchmarks/results/depthwise_cpu.json

The shapes are layers of MobileNetV2 at 96 pixels and of a ConvNeXt (7x7). Both sides are jitted
functions of the same arrays that return the value and the two gradients; they take turns in one
process, after agreeing to 1e-4 of the largest entry (float32, sums in another order).
`compile_s` is the time to compile that function anew, the compilation cache switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import lax

from benchmarks import timing
from ncap_jax.ops import depthwise
from ncap_jax.run import facts

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Calls of each; the fastest counts.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Images.", lower_bound=1)

# (side, channels, kernel, stride)
LAYERS = ((48, 96, 3, 2), (24, 144, 3, 1), (12, 192, 3, 1), (6, 576, 3, 1), (24, 96, 7, 1))


def step_of(convolution: Callable, stride: int) -> Callable:
    """(x, w, g) -> value and gradients, not jitted."""

    def step(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        def layer(x: jax.Array, w: jax.Array) -> jax.Array:
            return convolution(
                x,
                w,
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[3],
            )

        y, pull = jax.vjp(layer, x, w)
        return y, *pull(g)

    return step


def measure(side: int, channels: int, kernel: int, stride: int) -> dict[str, Any]:
    """One layer: milliseconds and compile seconds of both."""
    rng = np.random.default_rng(0)
    shapes = (
        (_BATCH.value, side, side, channels),
        (kernel, kernel, 1, channels),
        (_BATCH.value, side // stride, side // stride, channels),
    )
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    functions = {
        "ours": step_of(depthwise.convolution, stride),
        "xla": step_of(lax.conv_general_dilated, stride),
    }
    calls, seconds = timing.compile_each(functions, arrays)
    for ours, theirs in zip(*(call() for call in calls.values())):
        assert float(jnp.abs(ours - theirs).max()) <= 1e-4 * float(jnp.abs(theirs).max())
    times = timing.take_turns(calls, _REPEATS.value)
    return {
        "layer": f"{side}x{side}x{channels}, {kernel}x{kernel}, stride {stride}",
        **times,
        "compile_s": seconds,
        "times_faster": {k: times["xla"][k] / times["ours"][k] for k in times["ours"]},
    }


def main(argv: list[str]) -> None:
    """Measure, print, and write the file if one is named."""
    del argv
    jax.config.update("jax_enable_compilation_cache", False)
    result = {
        "environment": facts.describe(),
        "load_average": os.getloadavg()[0],
        "batch": _BATCH.value,
        "layers": [measure(*layer) for layer in LAYERS],
    }
    timing.report(result, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
