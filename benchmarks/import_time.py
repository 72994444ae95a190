"""What an import costs before anything is done.

    python -m benchmarks.import_time --output=benchmarks/results/import_time_cpu.json

Each line of code runs in fresh interpreters, taking turns with the empty one, whose minimum or
median is subtracted. Wall time and CPU time (user and system, all threads); modules are compiled
already. `import ncap_jax` alone is what must stay under a second; the others show when JAX, Flax
and the rest come in.
"""

from __future__ import annotations

import json
import operator
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from absl import app, flags

from ncap_jax.run import facts

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Interpreters started per line.", lower_bound=2)

LINES = {
    "nothing": "pass",
    "import": "import ncap_jax",
    "records": "import ncap_jax; ncap_jax.RankConfig()",
    "kernels": "import ncap_jax; ncap_jax.mlp_beta_eff",
    "rank_models": "import ncap_jax; ncap_jax.rank_models",
}


def seconds(code: str) -> tuple[float, float]:
    """Wall and CPU seconds of a fresh interpreter that runs one line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Seconds above an empty interpreter, by line and statistic."""
    for code in LINES.values():  # compiles the modules, fills the file cache
        seconds(code)
    taken = [{name: seconds(code) for name, code in LINES.items()} for _ in range(repeats)]

    def above_nothing(name: str, kind: int, statistic: Callable) -> float:
        values = (statistic([turn[line][kind] for turn in taken]) for line in (name, "nothing"))
        return round(operator.sub(*values), 3)

    return {
        name: {
            "wall_min": above_nothing(name, 0, min),
            "wall_median": above_nothing(name, 0, statistics.median),
            "cpu_min": above_nothing(name, 1, min),
            "cpu_median": above_nothing(name, 1, statistics.median),
        }
        for name in LINES
        if name != "nothing"
    }


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    del argv
    report = {
        "environment": facts.describe(),
        "repeats": _REPEATS.value,
        "seconds": measure(_REPEATS.value),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
