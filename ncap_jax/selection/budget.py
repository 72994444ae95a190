"""How much a run may spend, and how it is divided over the models.

Time. `time_budget` seconds of wall time are divided over the models left: with r seconds to go,
m models left and w workers, the next model may take

    share = min(r, r min(w, m) / m)                                                         (B1)

and what it leaves goes to the models after it. `model_time_budget` bounds every share. The clock
starts with each call: a run that resumes has the whole budget again.

Epochs. `epochs_budget` counts the epochs of all models, including those of earlier calls on the
same output folder. All models are trained to the same epoch,

    target = epoch now + floor(epochs left / models left)                                   (B2)

because a model with fewer epochs could not be compared with the others. What failed models leave is
divided again among the rest; a remainder too small for all models left is not spent.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from ncap_jax.options import Limits, RankConfig
from ncap_jax.types import Trajectory


class TimeIsUp(Exception):
    """A model's share of time is used up."""


@dataclasses.dataclass(frozen=True)
class TimeShare:
    """What one model may take.

    Attributes:
        seconds: of wall time; infinite where nothing bounds it.
        limit: the option that bounds it.
    """

    seconds: float = math.inf
    limit: str = ""

    def deadline(self, clock: Callable[[], float] = time.monotonic) -> Callable[[], None] | None:
        """Raises `TimeIsUp` when it is called after the share is used up; None: no bound."""
        if math.isinf(self.seconds):
            return None
        end = clock() + self.seconds

        def deadline() -> None:
            if clock() >= end:
                raise TimeIsUp

        return deadline

    def reason(self, trajectory: Trajectory, epochs: int) -> str:
        """Why a model ended early, for people."""
        if not trajectory.records:
            return f"stopped by {self.limit} before anything was measured"
        if not trajectory.epochs:
            return f"stopped by {self.limit} before its first epoch was finished"
        return f"stopped by {self.limit} after {trajectory.epochs} of {epochs} epochs"


class TimeBudget:
    """The clock of one call.

    Args:
        limits: `time_budget` and `model_time_budget`, in seconds.
        start: what `clock` said when the call started.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits, start: float, clock: Callable[[], float] = time.monotonic):
        self._total, self._each = limits.time_budget, limits.model_time_budget
        self._start, self._clock = start, clock
        self._used: dict[str, float] = {}

    def share(self, model: str, models_left: int, workers: int = 1) -> TimeShare:
        """What `model` may take now: one of `models_left` that have not had their turn."""
        share = TimeShare()
        if self._total is not None:
            rest = max(0.0, self._start + self._total - self._clock())
            share = TimeShare(rest * min(workers, models_left) / models_left, "time_budget")  # (B1)
        if self._each is not None:
            own = max(0.0, self._each - self._used.get(model, 0.0))
            if own < share.seconds:
                share = TimeShare(own, "model_time_budget")
        return share

    def used(self, model: str, seconds: float) -> None:
        """Add what a model took: its own budget is for all its turns together."""
        self._used[model] = self._used.get(model, 0.0) + seconds


def target(config: RankConfig, ended: Sequence[Trajectory], left: int, epoch: int) -> int:
    """Equation (B2): the epoch that all models left can be trained to, at most `config.epochs`.

    Args:
        config: `epochs` and `epochs_budget`.
        ended: trajectories of the models that have ended.
        left: number of models that continue, at least 1.
        epoch: which all of these have reached. Where an earlier call took one further, the others
            catch up first.
    """
    if config.epochs_budget is None:
        return config.epochs
    spent = sum(t.epochs for t in ended) + left * epoch
    return min(config.epochs, epoch + max(0, config.epochs_budget - spent) // left)  # (B2)
