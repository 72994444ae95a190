"""Batch norm in training: its statistics in one pass, in two, and as JAX's mean and variance.

    python -m benchmarks.batch_norm --output=benchmarks/results/batch_norm_cpu.json

Value and gradient of relu(norm(x)) with `zoo.layers.moments` on feature maps of a ResNet50, all
three in turns in one process. It decides which of them `zoo.layers.BatchNorm` uses where.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from ncap_jax.run import facts
from ncap_jax.zoo.layers import moments

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Calls of each; the fastest counts.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Images.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the feature maps.")

MAPS = ((112, 64), (56, 256), (28, 512), (14, 1024), (7, 2048))  # side, channels


def plain(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As JAX computes them."""
    return jnp.mean(values, (0, 1, 2)), jnp.var(values, (0, 1, 2))


STATISTICS: dict[str, Callable] = {
    "once": partial(moments, once=True),
    "twice": partial(moments, once=False),
    "plain": plain,
}


def step_of(statistics: Callable) -> Callable:
    """(x, scale, bias, cotangent) -> value and the gradients, jitted."""

    def layer(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        values = x.astype(jnp.float32)
        mean, var = statistics(values)
        r = jax.lax.rsqrt(var + 1e-3) * scale
        return jax.nn.relu(values * r + (bias - mean * r)).astype(x.dtype)

    @jax.jit
    def step(
        x: jax.Array, scale: jax.Array, bias: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(layer, x, scale, bias)
        return y, *pull(cotangent)

    return step


def measure(side: int, channels: int) -> dict[str, Any]:
    """One feature map."""
    rng = np.random.default_rng(0)
    shape = (_BATCH.value, side, side, channels)
    x, cotangent = (jnp.asarray(rng.normal(1, 1, shape), _DTYPE.value) for _ in range(2))
    arguments = x, jnp.ones(channels), jnp.zeros(channels), cotangent
    calls = {name: partial(step_of(how), *arguments) for name, how in STATISTICS.items()}
    return {"map": list(shape), "times": timing.take_turns(calls, _REPEATS.value)}


def main(argv: list[str]) -> None:
    """Measure, and write the figures with the environment beside them."""
    del argv
    rows = [measure(*shape) for shape in MAPS]
    result = {"environment": facts.describe(), "dtype": _DTYPE.value, "maps": rows}
    timing.report(result, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
