"""Lines of a corpus of fine-tunings (`experiments.corpus_files`), made from one trajectory."""

from __future__ import annotations

import json
from typing import Any

from experiments import corpus_files
from ncap_jax.finetune import trajectory_files
from ncap_jax.types import Trajectory


def make_line(trajectory: Trajectory, seed: int, final: float) -> dict[str, Any]:
    """A corpus line in which every kind of run shows the same epochs."""
    lines = [{**trajectory_files.to_json(r), "cpu": 2.0 + r.epoch} for r in trajectory.records]
    runs = {kind: corpus_files.compact(lines) for kind in corpus_files.HEADS}
    for kind in corpus_files.TRUTHS:
        runs[kind]["validation_accuracy"] = [*runs[kind]["validation_accuracy"][:-1], final]
    found = {"logme": {"value": final, "seconds": 1.0}}
    line = {"model": trajectory.model, "seed": seed, "parameters": 1, "scores": found, "runs": runs}
    return json.loads(json.dumps(line))
