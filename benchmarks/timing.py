"""Fair timing on a busy machine, and peak memory of one call."""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax


def take_turns(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict]:
    """Milliseconds of each function: the fastest of several calls, all functions taking turns.

    Args:
        functions: name -> call; what it returns is waited for. The first call, which may
            compile, does not count.
        repeats: calls of each.

    Returns:
        name -> {"wall_ms", "cpu_ms", "median_ms"}; the last is the median of the wall times, which
        shows the spread. CPU time counts all threads of this process and is the
        fairer figure where other processes share the cores; on an accelerator only wall time
        means anything.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            cpu, wall = time.process_time(), time.perf_counter()
            jax.block_until_ready(function())
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = {}
    for name, pairs in spent.items():
        walls, cpus = zip(*pairs)
        rows[name] = {
            "wall_ms": 1e3 * min(walls),
            "cpu_ms": 1e3 * min(cpus),
            "median_ms": 1e3 * statistics.median(walls),
        }
    return rows


def compile_each(
    functions: Mapping[str, Callable], arguments: Sequence[Any]
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Compile functions of the same arrays: calls of each, and the seconds that compiling it took.

    Switch the compilation cache off before, or the seconds are those of reading from it.
    """
    calls: dict[str, Callable[[], Any]] = {}
    seconds: dict[str, float] = {}
    for name, function in functions.items():
        lowered = jax.jit(function).lower(*arguments)
        start = time.perf_counter()
        calls[name] = partial(lowered.compile(), *arguments)
        seconds[name] = time.perf_counter() - start
    return calls, seconds


def relative(times: Mapping[str, Mapping[str, float]], unit: str) -> dict[str, dict[str, float]]:
    """Each time as a multiple of the one named `unit`."""
    return {n: {k: t[k] / times[unit][k] for k in t} for n, t in times.items()}


def compiled_memory(compiled: Any) -> dict[str, float]:
    """What XLA's buffer assignment says a compiled function needs, in MB."""
    analysis = compiled.memory_analysis()
    return {
        "temporary_mb": analysis.temp_size_in_bytes / 1e6,
        "output_mb": analysis.output_size_in_bytes / 1e6,
        "argument_mb": analysis.argument_size_in_bytes / 1e6,
    }


def compiled_work(compiled: Any) -> dict[str, float]:
    """What XLA counts of a compiled function: operations, and bytes read and written.

    A library's convolution that XLA hands over as a whole may count as no operation.
    """
    analysis = compiled.cost_analysis() or {}
    return {
        "gflop": analysis.get("flops", 0.0) / 1e9,
        "gb": analysis.get("bytes accessed", 0.0) / 1e9,
    }


def peak_growth(function: Callable[[], Any]) -> float:
    """MB by which one call raises the peak of the memory in use; call it in a fresh process.

    On the CPU: resident memory of the process, after a reset of its peak (Linux). Elsewhere:
    the allocator's peak minus what was in use before.
    """
    device = jax.devices()[0]
    if device.platform != "cpu":
        before = device.memory_stats()["bytes_in_use"]
        jax.block_until_ready(function())
        return (device.memory_stats()["peak_bytes_in_use"] - before) / 1e6
    before = _status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    jax.block_until_ready(function())
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> float:
    """A field of /proc/self/status in kB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1])
    raise RuntimeError(f"{key} is not in /proc/self/status")


def report(result: Mapping[str, Any], output: str | None) -> None:
    """Print a result as JSON, and write it to the file `output` if one is named."""
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        path = pathlib.Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def in_subprocess(module: str, arguments: Sequence[str]) -> Any:
    """Run `python -m module arguments` and read the JSON on its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
