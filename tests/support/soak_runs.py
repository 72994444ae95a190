"""A run of many tiny models; prints memory and open files after each.

    python -m tests.support.soak_runs MODELS FOLDER

A line a model: its number, resident memory in KiB, open file handles, threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pathlib
import sys
from typing import Any

from flax import nnx

import ncap_jax as ncap
from ncap_jax.run.folder import RunFolder
from ncap_jax.types import ModelSpec, Trajectory
from tests.support.small import SmallNet, small_config, small_digits


def build(*, rngs: nnx.Rngs, dtype: Any = None) -> SmallNet:
    """The one architecture of all models."""
    return SmallNet(4, rngs=rngs, dtype=dtype)


def resident() -> int:
    """Resident memory of this process in KiB, what the allocator holds without need given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main(models: int, folder: str) -> None:
    """Rank `models` models that differ in their names alone."""
    finish = RunFolder.finish
    count = 0

    def measured(self: RunFolder, trajectory: Trajectory) -> None:
        nonlocal count
        finish(self, trajectory)
        count += 1
        handles, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
        print(count, resident(), handles, threads, flush=True)

    RunFolder.finish = measured  # type: ignore[method-assign]
    specs = [ModelSpec(f"tiny_{n:03}", build, 8, 4) for n in range(models)]
    config = small_config(epochs=1, probe_widths=(6, 5, 4))
    ranking = ncap.rank_models(specs, small_digits(), config, folder, show_progress=False)
    assert all(row.status == "ok" for row in ranking.models)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
