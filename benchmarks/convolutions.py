"""Convolutions that have a form of their own on a CPU: ours against XLA's, with both gradients.

    python -m benchmarks.convolutions --output=benchmarks/results/convolutions_cpu.json

The depthwise shapes are layers of MobileNetV2 at 96 pixels and of a ConvNeXt (7x7), those of 1x1 of
ResNet50 and MobileNetV2 at 96 pixels, the others of VGG16, at 96 pixels too. Both sides are jitted
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
from ncap_jax.ops.convolutions import convolution
from ncap_jax.run import facts

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Calls of each; the fastest counts.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Images.", lower_bound=1)

# (side, input channels, output channels; None: depthwise, kernel, stride)
LAYERS = (
    (48, 96, None, 3, 2),
    (24, 144, None, 3, 1),
    (12, 192, None, 3, 1),
    (6, 576, None, 3, 1),
    (24, 96, None, 7, 1),
    (24, 64, 256, 1, 1),
    (24, 256, 64, 1, 1),
    (24, 256, 512, 1, 2),
    (12, 512, 128, 1, 1),
    (6, 256, 1024, 1, 1),
    (3, 2048, 512, 1, 1),
    (24, 24, 144, 1, 1),
    (96, 64, 64, 3, 1),
    (48, 64, 128, 3, 1),
    (48, 128, 128, 3, 1),
    (24, 256, 256, 3, 1),
)


def step_of(function: Callable, stride: int, groups: int) -> Callable:
    """(x, w, g) -> value and gradients, not jitted."""

    def step(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        def layer(x: jax.Array, w: jax.Array) -> jax.Array:
            return function(
                x,
                w,
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )

        y, pull = jax.vjp(layer, x, w)
        return y, *pull(g)

    return step


def measure(
    side: int, inputs: int, outputs: int | None, kernel: int, stride: int
) -> dict[str, Any]:
    """One layer: milliseconds and compile seconds of both."""
    rng, groups = np.random.default_rng(0), inputs if outputs is None else 1
    shapes = (
        (_BATCH.value, side, side, inputs),
        (kernel, kernel, inputs // groups, outputs or inputs),
        (_BATCH.value, side // stride, side // stride, outputs or inputs),
    )
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    functions = {
        "ours": step_of(convolution, stride, groups),
        "xla": step_of(lax.conv_general_dilated, stride, groups),
    }
    calls, seconds = timing.compile_each(functions, arrays)
    for ours, theirs in zip(*(call() for call in calls.values())):
        assert float(jnp.abs(ours - theirs).max()) <= 1e-4 * float(jnp.abs(theirs).max())
    what = "depthwise" if outputs is None else f"{outputs} filters of"
    times = timing.take_turns(calls, _REPEATS.value)
    return {
        "layer": f"{side}x{side}x{inputs}, {what} {kernel}x{kernel}, stride {stride}",
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
