"""timm's networks over the bridge to PyTorch, beside the native ones and PyTorch eager.

    python -m benchmarks.bridge --output=benchmarks/results/bridge_cpu.json

For each family: the zoo's network where it has one, timm's network of the same layers through
torchax (`timm:`), and that network in PyTorch eager. Timed is what `benchmarks.steps` times:
compiling a training step (tracing included), the step, an evaluation; random weights, a linear
classifier, float32, Adam, no cache of compiled programs. A time is the fastest of `--repeats`, a
figure the median of `--rounds` processes, which take turns; memory is the peak of the process. CPU
time of all threads is the figure to compare on a machine that others use. Needs the extra `timm`.

Expected result and what follows from it: docs/results/timm-steps.md.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from absl import app, flags

from benchmarks import steps, timing
from benchmarks.first_answer_torch import peak_mb
from benchmarks.steps_torch import BATCH, CLASSES, EVALUATED
from benchmarks.steps_torch import measure as measure_torch
from ncap_jax.run import facts
from ncap_jax.zoo import timm_networks

FLAGS = flags.FLAGS
# timm's name -> the zoo's network of the same layers. The zoo's ResNet strides in another
# convolution of a block, which costs a little less.
FAMILIES: dict[str, str | None] = {
    "resnet50": "resnet50",
    "mobilenetv2_100": "mobilenetv2",
    "mobilenetv3_large_100": None,
    "efficientnet_b0": None,
    "convnext_tiny": "convnext_tiny",
    "vit_tiny_patch16_224": "vit_ti16",
}
WAYS = ("native", "bridge", "PyTorch")
PARTS = ("compile", "step", "evaluate")


def define_flags() -> None:
    """Called by the script alone: the tests import it beside other programs."""
    flags.DEFINE_list("models", list(FAMILIES), "timm's names.")
    flags.DEFINE_integer("side", 64, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_integer("repeats", 4, "Runs of each in a process; the fastest counts.")
    flags.DEFINE_integer("rounds", 2, "Processes of each; the median counts.", lower_bound=1)
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
    flags.DEFINE_string("one", None, "Internal: measure WAY:MODEL in this process.")


def measure(way: str, model: str, side: int, repeats: int) -> dict[str, Any]:
    """One network one way, with the peak of this process's memory in MB."""
    if way == "PyTorch":
        network = timm_networks.create(model, num_classes=CLASSES)  # takes images of any side
        found = measure_torch(model, side, repeats, network)
    else:
        found = steps.measure(model if way == "native" else f"timm:{model}", side, repeats)
    return {**found, "peak_mb": peak_mb()}


def middle(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of every number over several processes."""
    found = dict(rounds[0])
    for key, value in found.items():
        if isinstance(value, Mapping):
            found[key] = middle([each[key] for each in rounds])
        elif isinstance(value, float):
            found[key] = statistics.median(each[key] for each in rounds)
    return found


def table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """CPU time of compiling, a step and an evaluation, and memory, a line each way."""
    lines = [
        "| network | way | compiling, s | step, ms | evaluating, ms | peak, MB |",
        "|---" * 6 + "|",
    ]
    for model, found in networks.items():
        for way, row in found.items():
            name = FAMILIES[model] if way == "native" else model
            compiling = f"{row['compile']['cpu_ms'] / 1e3:.1f}" if "compile" in row else ""
            times = " | ".join(f"{row[part]['cpu_ms']:,.0f}" for part in PARTS[1:])
            lines.append(f"| `{name}` | {way} | {compiling} | {times} | {row['peak_mb']:,.0f} |")
    return "\n".join(lines)


def ratio_table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """The bridge's CPU time as a multiple of the native network's and of PyTorch's."""
    lines = [
        "| network | compiling over native | step | evaluating | step over PyTorch | evaluating |",
        "|---" * 6 + "|",
    ]
    for model, found in networks.items():
        cells = []
        for way, parts in (("native", PARTS), ("PyTorch", PARTS[1:])):
            for part in parts:
                ours = found["bridge"][part]["cpu_ms"]
                cells.append(f"{ours / found[way][part]['cpu_ms']:.2f}" if way in found else "")
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(model: str) -> dict[str, Any]:
    """One network all ways, each in processes of its own, by turns."""
    ways = [way for way in WAYS if way != "native" or FAMILIES[model]]
    rounds: dict[str, list[Any]] = {way: [] for way in ways}
    for _ in range(FLAGS.rounds):
        for way in ways:
            name = FAMILIES[model] if way == "native" else model
            command = [sys.executable, "-m", "benchmarks.bridge", f"--one={way}:{name}"]
            command += [f"--side={FLAGS.side}", f"--repeats={FLAGS.repeats}"]
            rounds[way].append(steps.in_process(command))
    return {way: middle(found) for way, found in rounds.items()}


def main(argv: list[str]) -> None:
    """Measure one network, or all in processes of their own by turns; print, and write the file."""
    del argv
    if FLAGS.one is not None:
        way, model = FLAGS.one.split(":")
        print(json.dumps(measure(way, model, FLAGS.side, FLAGS.repeats)))
        return
    versions = {name: metadata.version(name) for name in ("timm", "torch", "torchax")}
    result = {
        "environment": {**facts.describe(), **versions},
        **{"side": FLAGS.side, "batch": BATCH, "evaluated": EVALUATED},
        **{"repeats": FLAGS.repeats, "rounds": FLAGS.rounds},
    }
    networks = {model: measured(model) for model in FLAGS.models}
    timing.report({**result, "networks": networks}, FLAGS.output)
    print(f"{table(networks)}\n\n{ratio_table(networks)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
