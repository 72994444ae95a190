"""What the device can do at most: bytes a second through its memory, products a second.

    python -m benchmarks.device_limits --output=FILE

The other benchmarks' counted bytes and operations are divided by these. A copy is counted as bytes
read plus bytes written; a product of two n×n matrices as 2n³ operations. Random numbers, not zeros.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import timing
from ncap_jax.run import facts

FLAGS = flags.FLAGS
# Arithmetic -> (dtype, precision of the product).
PRODUCTS = {
    "float32": (jnp.float32, "highest"),
    "tf32": (jnp.float32, "default"),
    "bfloat16": (jnp.bfloat16, "default"),
}


def define_flags() -> None:
    """Called by the script alone."""
    flags.DEFINE_integer("side", 8192, "Side of the matrices.", lower_bound=1)
    flags.DEFINE_integer("mb", 4000, "Size of the copied array in MB.", lower_bound=1)
    flags.DEFINE_integer("repeats", 10, "Calls of each; the fastest counts.", lower_bound=1)
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")


def measure(side: int, megabytes: int, repeats: int) -> dict[str, Any]:
    """GB/s of a copy, TFLOP/s of the products, and their times.

    Args:
        side: of the square matrices.
        megabytes: of the array that is copied.
        repeats: calls of each; the fastest counts.
    """
    key = jax.random.key(0)
    array = jax.random.normal(key, (megabytes * 250_000,))
    calls = {"copy": partial(jax.jit(lambda x: x + 1), array)}
    for name, (dtype, precision) in PRODUCTS.items():
        matrix = jax.random.normal(key, (side, side), dtype)
        product = jax.jit(partial(jnp.matmul, precision=precision))
        calls[name] = partial(product, matrix, matrix)
    times = timing.take_turns(calls, repeats)
    return {
        "gb_per_s": 2 * array.nbytes / times["copy"]["wall_ms"] / 1e6,
        "tflop_per_s": {name: 2e-9 * side**3 / times[name]["wall_ms"] for name in PRODUCTS},
        "times": times,
    }


def main(argv: list[str]) -> None:
    """Measure, print and write."""
    del argv
    found = measure(FLAGS.side, FLAGS.mb, FLAGS.repeats)
    timing.report({"environment": facts.describe(), "side": FLAGS.side, **found}, FLAGS.output)


if __name__ == "__main__":
    define_flags()
    app.run(main)
