"""Max pooling with its gradient: by shifted slices and by windows.

    python -m benchmarks.max_pool --output=benchmarks/results/max_pool_cpu.json

Feature maps of VGG16, ResNet50 and InceptionV3 at 96 pixels. Both sides are jitted functions of the
same arrays that return the value and the gradient of pool(relu(x)); they take turns in one process,
after agreeing to the last bit. It decides which the zoo takes: slices on the CPU where windows do
not overlap. `compile_s` is the time to compile that function anew, the compilation cache switched
off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from benchmarks import timing
from ncap_jax.ops import pooling
from ncap_jax.run import facts

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Calls of each; the fastest counts.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Images.", lower_bound=1)

# (side, channels, window, stride)
POOLS = ((96, 64, 2, 2), (24, 256, 2, 2), (50, 64, 3, 2), (21, 192, 3, 2), (24, 64, 3, 1))


def by_slices(x: jax.Array, window: int, stride: int) -> jax.Array:
    """The zoo's running maximum."""
    return pooling.running_max_pool(x, window, stride, "VALID")


def by_windows(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Flax's."""
    return nnx.max_pool(x, (window,) * 2, (stride,) * 2)


def step_of(pool: Callable) -> Callable:
    """(x, cotangent) -> value and gradient, not jitted."""

    def step(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(lambda x: pool(nnx.relu(x)), x)
        return y, *pull(cotangent)

    return step


def measure(side: int, channels: int, window: int, stride: int) -> dict[str, Any]:
    """One pool: milliseconds and compile seconds of both."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(_BATCH.value, side, side, channels)), jnp.float32)
    # Of few numbers: sums of overlapping windows do not depend on their order.
    shape = jax.eval_shape(lambda x: by_windows(x, window, stride), x).shape
    cotangent = jnp.asarray(rng.integers(-2, 3, shape), jnp.float32)
    functions = {
        name: step_of(partial(pool, window=window, stride=stride))
        for name, pool in (("slices", by_slices), ("windows", by_windows))
    }
    calls, seconds = timing.compile_each(functions, (x, cotangent))
    for ours, theirs in zip(*(call() for call in calls.values())):
        np.testing.assert_array_equal(ours, theirs)
    times = timing.take_turns(calls, _REPEATS.value)
    return {
        "pool": f"{side}x{side}x{channels}, {window}x{window}, stride {stride}",
        "times": times,
        "compile_s": seconds,
        "ratio_cpu": times["windows"]["cpu_ms"] / max(times["slices"]["cpu_ms"], 1e-9),
        "ratio_wall": times["windows"]["wall_ms"] / times["slices"]["wall_ms"],
    }


def main(argv: list[str]) -> None:
    """Measure, and write the figures with the environment beside them."""
    del argv
    jax.config.update("jax_enable_compilation_cache", False)
    result = {
        "environment": facts.describe(),
        "load_before": os.getloadavg()[0],
        "batch": _BATCH.value,
        "pools": [measure(*pool) for pool in POOLS],
    }
    timing.report(result, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
