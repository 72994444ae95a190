"""Two hundred models in one run: what each leaves in memory is bounded, open files do not grow."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS, WARM_UP = 200, 20
# KiB a model. About 150 were seen over the first hundred: records, row, and what JAX keeps of the
# traced programs of a new model. The model's arrays and compiled programs must not stay: with a
# model of any real size they are MiB.
GROWTH = 200


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_and_open_files_stay_bounded(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.soak_runs", str(MODELS), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = np.array([line.split() for line in result.stdout.splitlines()], int)
    assert len(rows) == MODELS
    number, memory, handles, threads = rows[WARM_UP:].T
    slope = np.polyfit(number, memory, 1)[0]
    print(f"{slope:.1f} KiB a model; {memory[0]} KiB after {number[0]}, {memory[-1]} at the end")
    assert slope < GROWTH
    assert handles.max() <= handles[0] + 2
    assert threads.max() <= threads[0] + 8
