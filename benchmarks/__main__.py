"""Run benchmarks one after the other, each in its own process.

    python -m benchmarks                 all of them
    python -m benchmarks data logme      some

Each prints its result and writes it to benchmarks/results/<name>_<backend>.json. On a GPU the zoo
is compared with PyTorch (`pip install torch torchvision timm`), at the sizes its docstring gives.
"""

from __future__ import annotations

import pathlib
import pkgutil
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
# For an accelerator alone: `python -m benchmarks.accelerator` and parts that only it runs.
ACCELERATOR = ("accelerator", "device_limits", "gpu_tests", "native_answer", "native_ranking")
# Options that replace defaults which are made for a small CPU.
ON_GPU = {
    "zoo": (
        *("--rival=torch", "--batch=64", "--size=224", "--dtype=bfloat16", "--steps=20"),
        *("--processes=8", "--profile", "--sections=throughput"),
    ),
    "batch_norm": ("--batch=64", "--dtype=bfloat16"),
}


def backend() -> str:
    """JAX's backend, asked in a process of its own: JAX reserves most of a GPU's memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def names() -> list[str]:
    """Modules of this folder that are benchmarks: those with a `main` of their own.

    What `benchmarks.accelerator` runs is part of it, for it asks for more than its defaults.
    """
    modules = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    others = sorted(set(modules) - {"__main__", *ACCELERATOR})
    return [name for name in others if "app.run(main)" in (FOLDER / f"{name}.py").read_text()]


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks; returns the number that failed."""
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        print(f"unknown: {', '.join(unknown)}. Known: {', '.join(names())}.", file=sys.stderr)
        return 2
    where, failed = backend(), 0
    for name in chosen or names():
        output = FOLDER / "results" / f"{name}_{where}.json"
        output.parent.mkdir(exist_ok=True)
        print(f"== {name}", flush=True)
        options = ON_GPU.get(name, ()) if where == "gpu" else ()
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--output={output}", *options]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
