"""A training step and an evaluation of zoo networks on a CPU, ours beside PyTorch eager.

    python -m benchmarks.steps --torch_python=PATH/python --output=benchmarks/results/steps_cpu.json

Networks with random weights and a linear classifier, float32, Adam; images of 96 pixels. Each side
runs in processes of its own, by turns, one network at a time: PyTorch with timm's networks
(`benchmarks.steps_torch`), ours as a ranking runs it (`ncap_jax.finetune.steps`), without a cache
of compiled programs. Each runs in huge pages, which the command asks for, and in small ones, which
PyTorch has by default (`ncap_jax.huge_pages`). A time is the fastest of `--repeats`; CPU time of
all threads is the figure to compare on a machine that others use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import timing
from benchmarks.first_answer_torch import NAMES
from benchmarks.steps_torch import BATCH, EVALUATED, best_of
from ncap_jax import huge_pages
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import prepare
from ncap_jax.options import WEIGHTS, RankConfig
from ncap_jax.run import facts
from ncap_jax.types import Dataset
from ncap_jax.zoo import find_model

FLAGS = flags.FLAGS
CLASSES = 6
# The first is how the command runs, the last how PyTorch does unless it is told.
SIDES = ("ours, huge pages", "ours, small pages", "PyTorch, huge pages", "PyTorch, small pages")


def define_flags() -> None:
    """Called by the script alone: the tests import it beside other programs."""
    flags.DEFINE_list("models", list(NAMES), "Networks.")
    flags.DEFINE_integer("side", 96, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_integer("repeats", 6, "Runs of each; the fastest counts.", lower_bound=1)
    flags.DEFINE_string("torch_python", None, "Python with torch and timm (default: no rival).")
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
    flags.DEFINE_string("one", None, "Internal: measure one network in this process.")


def feed_of(side: int) -> Any:
    """Random images: a batch to train on, and one to evaluate."""
    rng = np.random.default_rng(0)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (count, side, side, 3)
        return rng.integers(0, 256, shape, np.uint8), np.arange(count, dtype=np.int32) % CLASSES

    return make_feed(Dataset(*images(BATCH), *images(EVALUATED)))


def measure(model: str, side: int, repeats: int) -> dict[str, Any]:
    """Seconds to compile the step, milliseconds of a step and of an evaluation."""
    feed = feed_of(side)
    config = RankConfig(weights=WEIGHTS[1], input_size=side, trial_rates=(), batch_size=BATCH)
    candidate = prepare(find_model(model), feed, config)
    program, state = candidate.program, candidate.train_state
    chunk, key = next(iter(feed.train(0, 1, BATCH))), jax.random.key(0)
    compiling = best_of(lambda: steps.compile_steps(program, state, chunk), 1)

    def step() -> None:
        nonlocal state
        state, loss = steps.train_steps(program, state, chunk, key)
        jax.block_until_ready((state, loss))

    (images, *_) = next(iter(feed.validation(EVALUATED)))
    compute = steps.features.at(program.effort)

    def evaluate() -> None:
        compute(program.network, *state[:2], images).block_until_ready()

    return {
        "effort": program.effort,
        "compile": compiling,
        "step": best_of(step, repeats),
        "evaluate": best_of(evaluate, repeats),
    }


def in_process(command: list[str], huge: bool = False) -> dict[str, Any]:
    """The JSON that a command prints on its last line; `huge`: whether it asks for huge pages."""
    environ = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environ.pop(huge_pages.VARIABLE, None)
    if huge:
        environ |= huge_pages.environment(environ)
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(networks: Mapping[str, Mapping[str, Any]], what: str, kind: str = "cpu_ms") -> str:
    """Milliseconds of all sides, and ours over PyTorch's, each as it comes: in Markdown.

    Args:
        networks: name -> side and pages -> what was measured.
        what: "step" or "evaluate".
        kind: "cpu_ms" or "wall_ms".
    """
    lines = [f"| {' | '.join(['model', *SIDES, 'ours over PyTorch'])} |", "|---" * 6 + "|"]
    for name, sides in networks.items():
        found = [sides[side][what][kind] for side in SIDES]
        cells = [f"`{name}`", *(f"{ms:,.0f}" for ms in found), f"{found[0] / found[3]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure one network, or all in processes of their own; print, and write the file."""
    del argv
    shared = str(FLAGS.side), str(FLAGS.repeats)
    if FLAGS.one is not None:
        print(json.dumps(measure(FLAGS.one, FLAGS.side, FLAGS.repeats)))
        return
    result: dict[str, Any] = {"environment": facts.describe(), "side": FLAGS.side, "batch": BATCH}
    networks = result["networks"] = {}
    for model in FLAGS.models:
        ours = [sys.executable, "-m", "benchmarks.steps", f"--one={model}"]
        sides = {"ours": [*ours, f"--side={shared[0]}", f"--repeats={shared[1]}"]}
        if FLAGS.torch_python is not None:
            sides["PyTorch"] = [FLAGS.torch_python, "-m", "benchmarks.steps_torch", model, *shared]
        networks[model] = {
            f"{side}, {pages} pages": in_process(command, huge=pages == "huge")
            for pages in ("huge", "small")
            for side, command in sides.items()
        }
    timing.report(result, FLAGS.output)
    if FLAGS.torch_python is not None:
        for kind in ("cpu_ms", "wall_ms"):
            for what in ("step", "evaluate"):
                print(f"\n{what}, {kind}\n\n{table(networks, what, kind)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
