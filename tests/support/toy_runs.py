"""Rankings of toy models that really train, and ways to interrupt them.

All toys are one architecture with weights of their own, the size that `small_spec` has by default:
once one of them has been compiled in a process, a ranking of three takes tenths of a second.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import RankConfig
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.types import Dataset, ModelSpec, Ranking, Trajectory
from tests.support.small import SmallNet, small_config, small_digits

WIDTH = 12
CONFIG = small_config(epochs=3)


def build(number: int, *, rngs: nnx.Rngs, dtype: Any = None) -> SmallNet:
    """The architecture of all toys, with the weights of this number."""
    return SmallNet(WIDTH, rngs=nnx.Rngs(number), dtype=dtype)


def toy(number: int, name: str = "") -> ModelSpec:
    """A toy; it can be sent to worker processes."""
    build_it = functools.partial(build, number)
    return ModelSpec(name or f"toy_{number}", build_it, input_size=8, feature_width=WIDTH)


POOL = [toy(number) for number in (1, 2, 3)]
NAMES = tuple(spec.name for spec in POOL)


@functools.cache
def digits() -> Dataset:
    """The data of all toys, loaded once."""
    return small_digits()


def rank(
    output_dir: pathlib.Path | None = None, config: RankConfig = CONFIG, models: int = 2
) -> Ranking:
    """Rank the first toys."""
    return ncap.rank_models(POOL[:models], digits(), config, output_dir, show_progress=False)


def rows(ranking: Ranking) -> list[str]:
    """The table without times; as text, in which NaN equals NaN."""
    return [repr(dataclasses.replace(row, seconds=0.0)) for row in ranking.models]


def records(trajectory: Trajectory) -> list[str]:
    """The records without times; as text, in which NaN equals NaN."""
    return [
        repr(dataclasses.replace(record, seconds=0.0, measure_seconds=0.0))
        for record in trajectory.records
    ]


def timeless(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """All of a ranking but its times."""
    return rows(ranking), [records(trajectory) for trajectory in ranking.trajectories]


class Stop(BaseException):
    """Ends a run as a kill would: `except Exception` does not see it."""


OWNERS = {"append": ModelFiles, "save": Checkpoints, "finish": RunFolder}


def stop_after(patch: pytest.MonkeyPatch, calls: int, method: str) -> None:
    """Stop the run right after this call (counted from 1) of `append`, `save` or `finish`."""
    after(patch, OWNERS[method], method, calls, Stop)


def after(
    patch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
    calls: int,
    error: Callable[[], BaseException],
) -> None:
    """Let a function raise once it has done its work this many times."""
    original, count = getattr(owner, method), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        result = original(*arguments, **options)
        count += 1
        if count == calls:
            raise error()
        return result

    patch.setattr(owner, method, counted)


def instead(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    calls: set[int],
    error: Callable[[], BaseException],
) -> None:
    """Let a function raise instead of doing its work, in these calls (counted from 1)."""
    original, count = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise error()
        return original(*arguments, **options)

    patch.setattr(owner, name, counted)


def interrupted(folder: pathlib.Path, calls: int, method: str, config: RankConfig = CONFIG) -> None:
    """Leave in a folder what a run leaves that is stopped after such a call."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, calls, method)
        with pytest.raises(Stop):
            rank(folder, config)


def exhausted() -> Exception:
    """A lack of memory as XLA says it."""
    return jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB."
    )
