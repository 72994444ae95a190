"""What each compile effort costs and gains: seconds of XLA against the time of a run.

    python -m benchmarks.compile_effort --output=benchmarks/results/compile_effort_cpu.json
    python -m benchmarks.compile_effort --models=resnet50@96,vgg16@96

Of each model three programs, as head=linear runs them: the training step, the features of an
evaluation batch, and the sums of the whole network's beta_eff. Each is compiled once at every
effort of `ncap_jax.ops.effort`, the compilation cache switched off; the compiled programs then take
turns. It decides the table and the numbers of runs there.

On the CPU an effort breaks even by CPU time, the fastest run counting: the fairer figure where
others share the cores. On an accelerator it breaks even by wall time, the median counting. A
backend without options of its own has one effort, `full`. There the step is one step, not the scan
that trains.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from ncap_jax import data
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.measure import training
from ncap_jax.ops.effort import Effort, Jitted, compiler_options
from ncap_jax.options import WEIGHTS, RankConfig
from ncap_jax.run import facts
from ncap_jax.types import NETWORK_STRENGTHS, Dataset, ModelSpec
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS

IMAGES, CLASSES = 320, 10


@dataclass(frozen=True)
class Timed:
    """A program that is compiled and run.

    Attributes:
        jitted: the function.
        static: arguments that the program is made for.
        arrays: the other arguments.
        donated: the argument that a run consumes, and gives back as its first result.
    """

    jitted: Jitted
    static: Mapping[str, Any]
    arrays: Mapping[str, Any]
    donated: str | None = None

    def compile(self, effort: Effort) -> tuple[Callable[[], Any], dict[str, float]]:
        """A call of the compiled program, and the seconds that it took to get there."""
        start = time.perf_counter()
        lowered = self.jitted.at(effort).lower(**self.static, **self.arrays)
        lowering, wall, cpu = time.perf_counter() - start, time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        seconds = {
            "compile_cpu_s": time.process_time() - cpu,
            "compile_wall_s": time.perf_counter() - wall,
            "lower_wall_s": lowering,
        }
        return partial(self._run, compiled, dict(self.arrays)), seconds

    def _run(self, compiled: Any, arrays: dict[str, Any]) -> Any:
        if self.donated is None:
            return compiled(**arrays)
        if arrays[self.donated] is self.arrays[self.donated]:
            # The first run must not consume what the other efforts start from.
            arrays[self.donated] = jax.tree.map(jnp.array, arrays[self.donated])
        arrays[self.donated], result = compiled(**arrays)
        return result


def programs(tuning: FineTuning) -> dict[str, Timed]:
    """The programs of a candidate; without beta_eff where the network has none."""
    candidate, feed = tuning.candidate, tuning.feed
    program, train_state = candidate.program, candidate.train_state
    chunk = next(iter(feed.train(0, 1, tuning.config.batch_size)))
    step = {
        "train_state": train_state,
        "images": chunk.images,
        "labels": chunk.labels,
        "indices": chunk.indices[0],
        "key": jax.random.key(0),
        "number": np.uint32(0),
    }
    jitted = Jitted(steps.train_step, static_argnames="program", donate_argnames="train_state")
    found = {"training step": Timed(jitted, {"program": program}, step, "train_state")}
    images, _ = feed.subset(np.arange(candidate.evaluation_batch))
    arrays: dict[str, Any] = {"params": train_state.params, "state": train_state.state}
    network = {"network": program.network}
    found["features"] = Timed(steps.features, network, {**arrays, "batch": images})
    if isinstance(tuning.measure, training.NetworkMeasure):
        arrays |= {"total": None, "batch": tuning.measure.batches[0]}
        both = {**network, "strengths": NETWORK_STRENGTHS}
        found["beta_eff"] = Timed(training.add_batch, both, arrays)
    return found


def efforts() -> list[Effort]:
    """The efforts that differ on this backend, from the least to the greatest."""
    cheaper: tuple[Effort, ...] = ("least", "some")
    return [effort for effort in cheaper if compiler_options(effort)] + ["full"]


def measure(program: Timed, repeats: int) -> dict[str, Any]:
    """Seconds to compile and milliseconds to run at every effort, and where each breaks even."""
    compiled = {effort: program.compile(effort) for effort in efforts()}
    times = timing.take_turns({effort: call for effort, (call, _) in compiled.items()}, repeats)
    rows: dict[str, dict[str, float]] = {
        effort: {**seconds, **times[effort]} for effort, (_, seconds) in compiled.items()
    }
    return {"efforts": rows, "pays_from": pays_from(rows, on_cpu=jax.default_backend() == "cpu")}


def pays_from(
    rows: Mapping[str, Mapping[str, float]], *, on_cpu: bool = True
) -> dict[str, int | None]:
    """The number of runs from which an effort takes less time in all than every lesser one.

    Args:
        rows: effort -> its times, from the least to the greatest.
        on_cpu: whether CPU time decides, not wall time.

    Returns:
        effort -> runs, 0 for the least; None: it never does.
    """
    compile_key, run_key = (
        ("compile_cpu_s", "cpu_ms") if on_cpu else ("compile_wall_s", "median_ms")
    )
    found: dict[str, int | None] = {}
    for number, (effort, row) in enumerate(rows.items()):
        runs = [
            _overtakes(row[compile_key] - lesser[compile_key], lesser[run_key] - row[run_key])
            for lesser in list(rows.values())[:number]
        ]
        most = max(runs, default=0.0)
        found[effort] = None if math.isinf(most) else math.ceil(most)
    return found


def _overtakes(extra: float, gain: float) -> float:
    """Runs until `gain` milliseconds a run have paid for `extra` seconds; inf: never."""
    if gain <= 0:
        return 0.0 if gain == 0 and extra <= 0 else math.inf
    return max(0.0, 1e3 * extra / gain)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a Markdown table: for each effort CPU and wall seconds, and run milliseconds.

    Args:
        results: model -> program -> what `measure` found.
    """
    names = next(iter(next(iter(results.values())).values()))["efforts"]
    header = ["model", "program", *(f"{n}: compile CPU, wall; run CPU, wall" for n in names)]
    header += [f"{name} pays from" for name in list(names)[1:]]
    lines = [header, ["---", "---", *("---:" for _ in header[2:])]]
    for model, found in results.items():
        for program, result in found.items():
            cells = map(_cell, result["efforts"].values())
            pays = [_runs(runs) for runs in list(result["pays_from"].values())[1:]]
            lines.append([f"`{model}`", program, *cells, *pays])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Mapping[str, float]) -> str:
    seconds = f"{row['compile_cpu_s']:.1f}, {row['compile_wall_s']:.1f} s"
    return f"{seconds}; {row['cpu_ms']:.1f}, {row['median_ms']:.1f} ms"


def _runs(runs: int | None) -> str:
    return "never" if runs is None else f"{runs:,} runs"


def random_images(size: int) -> Dataset:
    """A checked data set of random images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    labels = np.arange(IMAGES, dtype=np.int32) % CLASSES
    half = IMAGES // 2
    return data.load_dataset(
        Dataset(images, labels, images[:half], labels[:half], name="random images")
    )


def measure_model(spec: ModelSpec, config: RankConfig, repeats: int) -> dict[str, Any]:
    """All programs of one model."""
    feed = make_feed(random_images(config.input_size or spec.input_size))
    tuning = training.start(spec, feed, config)
    return {name: measure(program, repeats) for name, program in programs(tuning).items()}


def parse(names: Sequence[str]) -> dict[str, tuple[ModelSpec, int | None]]:
    """Models and input sides, from `name` or `name@pixels`."""
    found = {}
    for name in names:
        model, _, size = name.partition("@")
        (spec,) = find_models([model])
        found[name] = spec, int(size) if size else None
    return found


def define_flags() -> None:
    """Called by the script alone: the tests import it beside the main program."""
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
    flags.DEFINE_list(
        "models",
        ["tiny_inception", "tiny_convnext", "mobilenetv2@64"],
        "Names, with the side of the input in pixels behind an @ where it is not the model's own.",
    )
    flags.DEFINE_enum("weights", "random", WEIGHTS, "Where the weights come from.")
    flags.DEFINE_integer("batch", 32, "Images in a training step.", lower_bound=1)
    flags.DEFINE_integer("repeats", 7, "Runs of each program.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Measure, print, and write the file if one is named."""
    del argv
    jax.config.update("jax_enable_compilation_cache", False)
    results: dict[str, Any] = {}
    for name, (spec, size) in parse(FLAGS.models).items():
        config = RankConfig(
            head="linear",
            weights=FLAGS.weights,
            batch_size=FLAGS.batch,
            input_size=size,
            beta_eff="every_epoch",
        )
        results[name] = measure_model(spec, config, FLAGS.repeats)
        print(table({name: results[name]}), flush=True)
    content = {
        "environment": facts.describe(),
        "load_average": os.getloadavg()[0],
        "batch": FLAGS.batch,
        "weights": FLAGS.weights,
        "options": {effort: compiler_options(effort) for effort in efforts()},
        "models": results,
    }
    timing.report(content, FLAGS.output)
    print(table(results))


if __name__ == "__main__":
    define_flags()
    app.run(main)
