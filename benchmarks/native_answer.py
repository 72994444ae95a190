"""Seconds to the answer at every model's own input size, on ten thousand images.

    python -m benchmarks.native_answer --turn=cold --data=../shared/data --output=FILE
    python -m benchmarks.native_answer --turn=torch --torch_python=PATH/python ...

One turn a call: `cold` ranks with an empty folder of compiled programs, `warm` with that of the
cold turn before it, which must lie under --work still; `torch` and `torch_compiled` fine-tune
PyTorch's networks one after the other on the same images (`benchmarks.first_answer_torch`). All
weights are random, Adam at one rate. What the result holds: `benchmarks.first_answer_runs`.

After --seconds PyTorch begins no other network; the result names those that it trained. Ours has no
such limit: a time budget would cut its epochs into pieces, which is another program.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import accelerator_data, first_answer_runs
from experiments import paper_plan
from ncap_jax import files
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS
TURNS = ("cold", "warm", "torch", "torch_compiled")
# Ends a call that has nothing to measure; the last line says why.
NOTHING_TO_DO = 77


def define_flags() -> None:
    """Called by the script alone."""
    flags.DEFINE_enum("turn", "cold", TURNS, "What is run.")
    flags.DEFINE_list("models", list(paper_plan.MODELS), "Names in the registry.")
    flags.DEFINE_string("data", "../shared/data", "Folder of the data sets.")
    flags.DEFINE_string("set", "cifar10", "Name of the data set.")
    flags.DEFINE_integer("train", 8000, "Training images.", lower_bound=1)
    flags.DEFINE_integer("validation", 2000, "Validation images.", lower_bound=1)
    flags.DEFINE_integer("epochs", 5, "Epochs of fine-tuning.", lower_bound=1)
    flags.DEFINE_integer("batch", 64, "Images in a training step.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
    flags.DEFINE_integer("workers", 0, "Worker processes; 0: one process does it all.")
    flags.DEFINE_integer("size", 0, "Side of all inputs in pixels; 0: each model's own.")
    flags.DEFINE_float("seconds", 600, "Seconds after which PyTorch begins no network.")
    flags.DEFINE_string("work", "runs/native_answer", "Folder of images and compiled programs.")
    flags.DEFINE_string("torch_python", sys.executable, "Python that has torch, torchvision, timm.")
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")


def images(work: pathlib.Path) -> str:
    """The file of the images, as both sides read it; made if it is not there."""
    path = work / f"{FLAGS.set}_{FLAGS.train}_{FLAGS.validation}.npz"
    if not path.exists():
        found = accelerator_data.load(FLAGS.set, FLAGS.data, FLAGS.train, FLAGS.validation)
        parts: dict[str, Any] = {
            name: getattr(found, name)
            for name in ("images", "labels", "validation_images", "validation_labels")
        }
        with files.atomic_file(path) as file:
            np.savez(file, **parts)
    return str(path)


def request(data: str) -> dict[str, Any]:
    """What both sides are asked for."""
    return {
        "models": FLAGS.models,
        "epochs": FLAGS.epochs,
        "batch": FLAGS.batch,
        "data": data,
    }


def config() -> dict[str, Any]:
    """Fields of our RankConfig beside epochs and batch."""
    execution: dict[str, Any] = {}
    if FLAGS.workers:
        execution = {"executor": "processes", "workers": FLAGS.workers}
    return {
        "weights": "random",
        "trial_rates": (),
        "dtype": FLAGS.dtype,
        "input_size": FLAGS.size or None,
        "strategy": "full",  # PyTorch trains every network to the end
        **execution,
    }


def way() -> dict[str, Any]:
    """How the rival computes."""
    sizes = {spec.name: FLAGS.size or spec.input_size for spec in find_models(FLAGS.models)}
    return {
        "compiled": FLAGS.turn == "torch_compiled",
        "dtype": FLAGS.dtype,
        "layout": "channels_last",
        "sides": sizes,
        "measured": 2048,  # as many as RankConfig.measure_size
        "seconds": FLAGS.seconds,
    }


def run(work: pathlib.Path) -> dict[str, Any]:
    """One turn."""
    asked = request(images(work))
    if FLAGS.turn.startswith("torch"):
        return first_answer_runs.run_rival({**asked, "way": way()}, FLAGS.torch_python)
    cache = work / f"programs_{FLAGS.workers}"
    if FLAGS.turn == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    elif not (cache / "xla").is_dir():
        print("the compiled programs of the cold run are not on this machine")
        sys.exit(NOTHING_TO_DO)
    return first_answer_runs.run_ours({**asked, "config": config()}, cache)


def main(argv: list[str]) -> None:
    """Run, print and write the result."""
    del argv
    work = pathlib.Path(FLAGS.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    settings = {"asked": FLAGS.models, "epochs": FLAGS.epochs, "batch": FLAGS.batch}
    settings |= {"set": FLAGS.set, "images": FLAGS.train + FLAGS.validation, "dtype": FLAGS.dtype}
    result = {**settings, "turn": FLAGS.turn, "workers": FLAGS.workers, **run(work)}
    text = files.to_json(result, indent=1)
    if FLAGS.output:
        files.write_atomically(pathlib.Path(FLAGS.output), text + "\n")
    print(json.dumps(result["total"]))


if __name__ == "__main__":
    define_flags()
    app.run(main)
