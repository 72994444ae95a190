"""Two hundred models in one run: what each leaves in memory is bounded, open files do not grow."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax.run import worker

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS, WARM_UP = 200, 60
# KiB a model; 10 were seen on the CPU, under glibc: 5 are the model's own result (records, row,
# spec), the rest is what Python, JAX and the allocator keep. An array or a compiled program that
# stayed would be more, and so was what Orbax left of each array in a checkpoint: 118.
GROWTH = 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_and_open_files_stay_bounded(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.soak_runs", str(MODELS), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = np.array([line.split() for line in result.stdout.splitlines()], int)
    assert len(rows) == MODELS
    # Compiled programs are freed and made again in turns: memory is compared after whole turns.
    turns = rows[WARM_UP:][rows[WARM_UP:, 0] % worker.SMALL_MODELS_KEPT == 0]
    number, memory, _, _ = turns.T
    _, _, handles, threads = rows[WARM_UP:].T
    slope = np.polyfit(number, memory, 1)[0]
    print(f"{slope:.1f} KiB a model; {memory[0]} KiB after {number[0]}, {memory[-1]} at the end")
    assert slope < GROWTH
    assert handles.max() <= handles[0] + 2
    assert threads.max() <= threads[0] + 8
