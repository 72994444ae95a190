"""Worker processes that are killed while they train, and a rule that stops models by halving."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Callable, Collection, Sequence

import pytest

from ncap_jax.finetune import trajectory_files
from ncap_jax.options import RankConfig
from ncap_jax.selection import halving
from ncap_jax.types import Trajectory


def spawned() -> list[int]:
    """Process ids of the workers of `executor="processes"`, oldest first."""
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("ncap_jax")]
    return [p.pid for p in sorted(workers, key=lambda p: p.name) if p.pid is not None]


def kill_a_worker(
    folder: pathlib.Path,
    model: str,
    lines: int,
    killed: list[int],
    workers: Callable[[], list[int]] = spawned,
) -> None:
    """SIGKILL the first worker once a model has this many epochs in its file.

    Args:
        folder: of the run.
        model: name of the model.
        lines: epochs, epoch 0 included.
        killed: receives how many workers there were.
        workers: gives their process ids.
    """
    trajectory = folder / trajectory_files.FOLDER / f"{model}.jsonl"
    deadline = time.monotonic() + 400
    while not (trajectory.exists() and trajectory.read_text().count("\n") >= lines):
        if time.monotonic() > deadline:
            return
        time.sleep(0.005)
    found = workers()
    os.kill(found[0], signal.SIGKILL)
    killed.append(len(found))


def the_worst_has_no_chance(patch: pytest.MonkeyPatch) -> None:
    """Let halving stop the model of the highest loss: toys show no relation that it could use."""

    def chances(
        trajectories: Sequence[Trajectory],
        contenders: Collection[str],
        config: RankConfig,
        rung: int,
        priors: object = None,
    ) -> dict[str, float]:
        losses = {
            t.model: t.records[rung].validation_loss for t in trajectories if t.model in contenders
        }
        worst = max(losses, key=losses.__getitem__)
        return {name: 0.0 if name == worst else 0.5 for name in contenders}

    patch.setattr(halving, "chances", chances)
