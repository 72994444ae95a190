"""How much a run may spend, and how it is divided over the models.

Time. `time_budget` seconds of wall time are divided over the models left: with r seconds to go,
m models left and w workers, the next model may take

    share = min(r, r min(w, m) / m)                                                         (B1)

and what it does not take goes to those after it. `model_time_budget` bounds every share. A clock
starts anew with every call: a run that is taken up again has the whole budget once more.

Epochs. `epochs_budget` counts the epochs of all models, those of earlier calls on the same output
folder too. All models are trained to the same epoch,

    target = epoch now + floor(epochs left / models left)                                   (B2)

because a model with fewer epochs could not be compared; what failed models leave is divided once
more, and what does not suffice for all models left is not spent.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from ncap_jax import errors
from ncap_jax import predictor as predictors
from ncap_jax.types import RankConfig, Trajectory


class Spent(Exception):
    """A model's share of time is over."""


@dataclasses.dataclass(frozen=True)
class Share:
    """What one model may take.

    Attributes:
        seconds: of wall time; infinite where nothing bounds it.
        limit: the option that bounds it.
    """

    seconds: float = math.inf
    limit: str = ""

    def check(self, clock: Callable[[], float] = time.monotonic) -> Callable[[], None] | None:
        """A function that raises `Spent` once the share is over; None if nothing bounds it."""
        if math.isinf(self.seconds):
            return None
        deadline = clock() + self.seconds

        def check() -> None:
            if clock() >= deadline:
                raise Spent

        return check

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
        config: `time_budget` and `model_time_budget`, in seconds.
        start: when the call started, by `clock`.
        clock: seconds, monotonic.
    """

    def __init__(
        self, config: RankConfig, start: float, clock: Callable[[], float] = time.monotonic
    ):
        self._total, self._each = config.time_budget, config.model_time_budget
        self._start, self._clock = start, clock
        self._used: dict[str, float] = {}

    def share(self, model: str, models_left: int, workers: int = 1) -> Share:
        """What `model` may take now, one of `models_left` that have not had their turn."""
        share = Share()
        if self._total is not None:
            rest = max(0.0, self._start + self._total - self._clock())
            share = Share(rest * min(workers, models_left) / models_left, "time_budget")  # (B1)
        if self._each is not None:
            own = max(0.0, self._each - self._used.get(model, 0.0))
            if own < share.seconds:
                share = Share(own, "model_time_budget")
        return share

    def used(self, model: str, seconds: float) -> None:
        """Note what a model took: its own budget holds for all its turns together."""
        self._used[model] = self._used.get(model, 0.0) + seconds


def target(config: RankConfig, ended: Sequence[Trajectory], left: int, epoch: int) -> int:
    """Equation (B2): the epoch that all models left can be trained to, at most `config.epochs`.

    Args:
        config: `epochs` and `epochs_budget`.
        ended: trajectories of the models that do not go on.
        left: number of models that go on, at least 1.
        epoch: that these have reached; where an earlier call took one further, the others follow.
    """
    if config.epochs_budget is None:
        return config.epochs
    spent = sum(t.epochs for t in ended) + left * epoch
    return min(config.epochs, epoch + max(0, config.epochs_budget - spent) // left)  # (B2)


def check_config(config: RankConfig, models: int | None = None) -> None:
    """Refuse budgets that cannot work, before any work is done.

    Args:
        config: of the run.
        models: how many there are; None: not known yet.

    Raises:
        ConfigError: a budget is not positive, or does not suffice for the epochs that the
            predictor needs of every model.
    """
    for name in ("time_budget", "model_time_budget"):
        seconds = getattr(config, name)
        if seconds is None:
            continue
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (number and seconds > 0 and math.isfinite(seconds)):
            raise errors.ConfigError(f"{name}={seconds!r}", "Give a positive number of seconds")
    budget = config.epochs_budget
    if budget is None:
        return
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise errors.ConfigError(f"epochs_budget={budget!r}", "Give a whole number of at least 1")
    needed = predictors.get(config.predictor, config.head).min_epochs
    if models is not None and budget < needed * models:
        raise errors.ConfigError(
            f"epochs_budget={budget} does not suffice for {models} models: the predictor needs "
            f"{needed} epoch(s) of each",
            f"Give at least {needed * models}, or fewer models",
        )
