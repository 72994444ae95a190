"""Run benchmarks one after the other, each in its own process.

    python -m benchmarks                 all of them
    python -m benchmarks data logme      some

Each prints its result and writes it to benchmarks/results/<name>_<backend>.json.
"""

from __future__ import annotations

import pathlib
import pkgutil
import subprocess
import sys

import jax

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Modules of this folder that are benchmarks: those with a `main` of their own."""
    modules = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    return [
        name
        for name in sorted(modules)
        if name != "__main__" and "app.run(main)" in (FOLDER / f"{name}.py").read_text()
    ]


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks; returns the number that failed."""
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    backend, failed = jax.default_backend(), 0
    for name in chosen or names():
        output = FOLDER / "results" / f"{name}_{backend}.json"
        output.parent.mkdir(exist_ok=True)
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--output={output}"]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
