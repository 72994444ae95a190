"""The runs of `benchmarks.first_answer`, each in a process of its own.

    python -m benchmarks.first_answer_runs '{"models": ["tiny_*"], "epochs": 5, ...}'

is one of ours: it prints its result as JSON on the last line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

import ncap_jax as ncap
from benchmarks import accelerator_beside, first_answer_torch
from benchmarks.first_answer_recorder import Recorder
from benchmarks.first_answer_stages import OURS, RIVAL, TURNS
from ncap_jax import files, huge_pages
from ncap_jax.run import ahead, facts
from ncap_jax.types import Dataset, ModelSpec, Ranking

PARTS = {"embedded": ("tiny_*",), "zoo": tuple(first_answer_torch.NAMES)}
BATCH = 32
SIDE, TRAIN, VALIDATION = 96, 400, 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a part's runs are.

    Attributes:
        part: one of `PARTS`.
        models: names or patterns.
        epochs: of fine-tuning.
        shared: folder of the real images; None: digits.
        torch_python: the rival's interpreter; None: no rival.
        beside: how many models are prepared beside the one that trains; None: as a run decides.
        strategy: who trains how long; None: every model to the end beside a rival, which does so
            too, else as a run decides.
    """

    part: str
    models: tuple[str, ...]
    epochs: int
    shared: str | None = None
    torch_python: str | None = None
    beside: int | None = None
    strategy: str | None = None

    def about(self) -> dict[str, Any]:
        """What decides the results."""
        data = "digits"
        if self.part == "zoo":
            what = "birds6" if self.shared else "digits"
            data = f"{what}, {TRAIN} + {VALIDATION} images of {SIDE} x {SIDE} pixels"
        return {
            "models": list(self.models),
            "epochs": self.epochs,
            "data": data,
            "beside": self.beside,
            "strategy": self.training,
        }

    @property
    def rival(self) -> str | None:
        """The rival's interpreter, if it has a part in this."""
        return self.torch_python if self.part == "zoo" else None

    @property
    def training(self) -> str | None:
        """The strategy of our runs; None: as a run decides."""
        return self.strategy or ("full" if self.rival else None)


def measure(
    settings: Settings, found: dict[str, Any], work: pathlib.Path, save: Callable[[], None]
) -> None:
    """Make the runs of a part that are not in `found` yet.

    Args:
        settings: of the part.
        found: receives turn -> result.
        work: folder that holds data and compiled programs until all runs are made.
        save: called after each run.
    """
    cache, data = work / settings.part, work / f"{settings.part}.npz"
    if "warm" not in found and not (cache / "xla").is_dir():
        found.pop("cold", None)  # without its compiled programs a second run would be cold
    request = {"models": settings.models, "epochs": settings.epochs, "batch": BATCH}
    request |= {"beside": settings.beside, "strategy": settings.training}
    if settings.part == "zoo":
        make_data(data, settings.shared)
        request["data"] = str(data)
    turns = [turn for turn in TURNS if turn not in found and (turn in OURS or settings.rival)]
    if turns:
        import_untimed(sys.executable, "ncap_jax.run.pipeline")
        if settings.rival:
            import_untimed(settings.rival, "timm")
    for turn in turns:
        if turn == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        if turn in RIVAL and settings.rival:
            found[turn] = run_rival(request, settings.rival)
        else:
            found[turn] = run_ours(request, cache)
        save()
        print(f"{settings.part}, {turn}: {json.dumps(found[turn]['total'])}", flush=True)


def import_untimed(python: str, module: str) -> None:
    """Import once, so that the file cache holds the modules, and Python has compiled them."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([python, "-c", f"import {module}"], env=environ, check=True)


def run_ours(request: dict[str, Any], cache: pathlib.Path) -> dict[str, Any]:
    """A ranking in a process of its own."""
    theirs = ("JAX_COMPILATION", "JAX_PERSISTENT")  # of the caller's own cache
    environ = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environ |= {"NCAP_CACHE": str(cache), "NCAP_OFFLINE": "1"}
    environ |= huge_pages.environment(environ)  # as the command does
    return run([sys.executable, "-m", "benchmarks.first_answer_runs"], request, environ)


def run_rival(request: dict[str, Any], python: str) -> dict[str, Any]:
    """The rival's fine-tunings in a process of their own."""
    # Its folder must not hide other packages' modules.
    environ = {**os.environ, "PYTHONSAFEPATH": "1"}
    return run([python, first_answer_torch.__file__], request, environ)


def run(command: list[str], request: dict[str, Any], environ: dict[str, str]) -> Any:
    """The JSON on the last line of a command that is given a request and the time it starts."""
    started = {**request, "started": time.monotonic()}
    command = [*command, json.dumps(started)]
    following = accelerator_beside.following(command)
    done = subprocess.run(following, env=environ, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed: see above")
    return json.loads(done.stdout.splitlines()[-1])


def one_run(request: dict[str, Any]) -> dict[str, Any]:
    """What a process of `run_ours` does."""
    config = ncap.RankConfig(epochs=request["epochs"], batch_size=request["batch"])
    if "config" in request:
        config = dataclasses.replace(config, **request["config"])
    elif "data" in request:
        config = dataclasses.replace(config, weights="random", trial_rates=(), input_size=SIDE)
    if request.get("strategy") is not None:
        config = dataclasses.replace(config, strategy=request["strategy"])
    if request.get("beside") is not None:
        ahead.threads = lambda: request["beside"]
    return ours(request["models"], request.get("data", "digits"), config, request["started"])


def ours(
    models: Sequence[str | ModelSpec],
    source: str | Dataset,
    config: ncap.RankConfig,
    start: float | None = None,
) -> dict[str, Any]:
    """Rank, and say where the time went.

    Args:
        models: as for `ncap_jax.rank_models`.
        source: `digits`, or the path of a file that `make_data` wrote, or a set.
        config: of the run.
        start: of this process, by `time.monotonic`; None: the imports do not count.
    """
    recorder = Recorder(start)
    if start is not None:
        recorder.add("import", start)
    with recorder.recording(), tempfile.TemporaryDirectory() as folder:
        dataset = recorder.timed("data", read_data)(source)
        ranking = ncap.rank_models(models, dataset, config, folder, show_progress=False)
    seconds = recorder.account()
    return {
        **seconds,
        "models": about_models(recorder, ranking),
        "programs": {
            "compiled": recorder.compiled.total(),
            "read": recorder.read.total(),
            "most": dict((recorder.compiled + recorder.read).most_common(10)),
        },
        "peak_mb": first_answer_torch.peak_mb(),
        "device_peak_mb": device_peak_mb(),
        "environment": facts.describe(),
    }


def about_models(recorder: Recorder, ranking: Ranking) -> dict[str, Any]:
    """How each model ended, and when its first step was done, in seconds after the command."""
    steps = recorder.first_steps()
    return {
        trajectory.model: {
            "status": trajectory.status,
            "seconds": trajectory.seconds,
            "first_step_s": steps.get(trajectory.model),
            "validation_accuracy": [r.validation_accuracy for r in trajectory.records],
        }
        for trajectory in ranking.trajectories
    }


def device_peak_mb() -> float | None:
    """The most that was in use on an accelerator; None on the CPU."""
    facts_of_memory = jax.devices()[0].memory_stats() or {}
    peak = facts_of_memory.get("peak_bytes_in_use")
    return None if peak is None or jax.default_backend() == "cpu" else peak / 1e6


def read_data(source: str | Dataset) -> str | Dataset:
    """The set in a file of `make_data`; anything else stays as it is."""
    if not isinstance(source, str) or not source.endswith(".npz"):
        return source
    with np.load(source) as file:
        count = len(file["labels"]) + len(file["validation_labels"])
        return Dataset(**file, name=f"{count:,} images")


def make_data(path: pathlib.Path, shared: str | None) -> None:
    """Write the zoo's images, (n, 96, 96, 3) uint8, as both sides read them."""
    options = ncap.DataConfig(max_train=TRAIN, max_validation=VALIDATION)
    if shared:
        folder = str(pathlib.Path(shared) / "birds" / "birds6")
        data = ncap.load_dataset(folder, options, image_size=SIDE)
    else:
        data = ncap.load_dataset("digits", options)
    enlarge = np.ones((1, SIDE // data.images.shape[1], SIDE // data.images.shape[2], 1), np.uint8)
    parts: dict[str, Any] = {
        "images": np.kron(data.images, enlarge),
        "labels": data.labels,
        "validation_images": np.kron(data.validation_images, enlarge),
        "validation_labels": data.validation_labels,
    }
    np.savez(path, **parts)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # as the command line does
    print(json.dumps(files.strict(one_run(json.loads(sys.argv[1])))))
