"""What one run is asked to do, and what its workers are asked and tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ncap_jax.options import RankConfig
from ncap_jax.selection.budget import TimeShare
from ncap_jax.types import Dataset, EpochRecord, FunnelStep, LeftOut, ModelSpec


@dataclass(frozen=True, eq=False)
class Job:
    """Models, data and configuration of a run, all checked.

    Attributes:
        specs: the models; their order is that of trajectories.
        dataset: from `ncap_jax.data.load_dataset`.
        config: of the run.
        seen: model -> how its weights have seen the images before (`ncap_jax.data.seen`).
        left_out: models that were asked for and do not take part.
        recall: how many of the models are fine-tuned, which is still to be decided
            (`ncap_jax.run.recall`); 0: all.
        funnel: how many models each step has left so far.
        in_order: whether the models come in the order of their turns, the most promising first.
    """

    specs: tuple[ModelSpec, ...]
    dataset: Dataset
    config: RankConfig
    seen: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    recall: int = 0
    funnel: tuple[FunnelStep, ...] = ()
    in_order: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, in order."""
        return tuple(spec.name for spec in self.specs)


class Task(NamedTuple):
    """What is asked of a worker: train this model up to this epoch within this share of time.

    `alive`: the models that are still in the run; of others nothing needs to be kept.
    `following`: the models that come next, in order.
    """

    model: str
    until: int
    share: TimeShare = TimeShare()
    alive: frozenset[str] = frozenset()
    following: tuple[str, ...] = ()


class EpochDone(NamedTuple):
    """What a worker tells while it trains: an epoch, and whether it is in the run's folder yet."""

    record: EpochRecord
    written: bool


class Look(NamedTuple):
    """What is asked of a worker in a recall: the scores of this model, unless the time is over."""

    model: str
    over: bool = False


class Looked(NamedTuple):
    """What is known of a model after a look.

    Attributes:
        scores: by name; empty: the time was over, or it failed.
        seconds: that they took.
        weights: SHA-256 of the weights; None: not known.
        failure: why the model cannot be fine-tuned; empty: it can.
    """

    scores: Mapping[str, float] = {}
    seconds: float = 0.0
    weights: str | None = None
    failure: str = ""
