"""How large a batch may be: doubled until the accelerator's memory is full, or up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks import timing

# What is compiled for a batch: name -> a function that gives the program and a call of it.
Builds = Mapping[str, Callable[[], tuple[Any, Callable[[], Any]]]]


def largest_batches(
    builds: Callable[[int], Builds], names: tuple[str, ...], first: int, most: int, repeats: int
) -> dict[str, Any]:
    """For each program the batches that fit, with its time and memory at each.

    Args:
        builds: programs for a number of images.
        names: of the programs, one after the other.
        first: images in the smallest batch.
        most: images beyond which nothing is tried.
        repeats: calls of each; the fastest counts.

    Returns:
        name -> `batches`: a row for each that fits; `largest`: the last of them, 0 if none fits;
        `full`: whether the next did not fit, so that it is the memory that ends the series.
    """
    return {name: _series(builds, name, first, most, repeats) for name in names}


def _series(
    builds: Callable[[int], Builds], name: str, first: int, most: int, repeats: int
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    batch, full = first, False
    while batch <= most and not full:
        try:
            program, call = builds(batch)[name]()
            times = timing.take_turns({"call": call}, repeats)["call"]
            rows.append({"batch": batch, **times, **timing.compiled_memory(program)})
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = True
        batch *= 2
    return {"batches": rows, "largest": rows[-1]["batch"] if rows else 0, "full": full}


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of XLA's says that the memory is full."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
