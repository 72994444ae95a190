"""The rival of `benchmarks.steps`: PyTorch eager with timm's networks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.first_answer_torch import build

BATCH, EVALUATED, CLASSES = 32, 128, 6


def best_of(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """The fastest of several runs: milliseconds of wall time, and of CPU time of all threads."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*times)
    return {"wall_ms": 1000 * min(walls), "cpu_ms": 1000 * min(cpus)}


def measure(model: str, side: int, repeats: int, network: Any = None) -> dict[str, Any]:
    """Milliseconds of a step and of an evaluation, of a network or of timm's of our name.

    VGG is built without its hidden layers of 4096, as ours: they have seven times the parameters of
    the rest.
    """
    import timm
    import torch

    if network is None:
        network = build(model, CLASSES)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    images, labels = torch.randn(BATCH, 3, side, side), torch.arange(BATCH) % CLASSES
    others = torch.randn(EVALUATED, 3, side, side)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    def evaluate() -> None:
        network.eval()
        with torch.no_grad():
            network(others)

    found: dict[str, Any] = {"torch": torch.__version__, "timm": timm.__version__}
    return {**found, "step": best_of(step, repeats), "evaluate": best_of(evaluate, repeats)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
