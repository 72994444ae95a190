"""How much a run may spend, and how it is divided over the models.

Time. Models are taken one after another, in the order of `admission_order`, while `time_budget`
lasts. Of its seconds a few are kept for ranking and reporting. With r of the others to go, m models
left and w workers, an even share is

    share = r min(w, m) / m                                                                 (B1)

A model keeps to it if it has its first epoch within this share, after t seconds, and the models
before it typically would have had theirs, after s: then all models can have one, and they are
compared after about as many. Otherwise not all can, and the model goes on up to

    end = min(r, t + max(s, t))                                                             (B2)

so its further epochs never take longer than a first one. What a model leaves goes to the next. A
model is not started once less time is left than any model took to its first epoch.

In a race (`ncap_jax.selection.race`) no model has a share: one is started as long as the seconds
that the race's later epochs take, (H4), are left for them. What an epoch takes is the median of the
models' fastest ones. How many will be started: `ncap_jax.selection.forecast`.

A budget always answers: in every call the first model that starts has an epoch, however long it
takes. `model_time_budget` bounds a model once it has its first epoch. The clock starts with each
call: a run that resumes has the whole budget again. Where the predictor needs two epochs, "first
epoch" means these two.

Epochs. `epochs_budget` counts the epochs of all models, including those of earlier calls on the
same output folder. All models are trained to the same epoch,

    target = epoch now + floor(epochs left / models left)                                   (B3)

because a model with fewer epochs could not be compared with the others. What failed models leave is
divided again among the rest; a remainder too small for all models left is not spent.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from ncap_jax import predictor as predictors
from ncap_jax.options import RankConfig
from ncap_jax.selection import forecast
from ncap_jax.types import ModelSpec, Trajectory

# Kept for ranking and reporting: this part of the time budget, but no more than these seconds.
RESERVED_PART, RESERVED_SECONDS = 0.05, 5.0
# What the quickest models of the zoo take to their first epoch.
START_SECONDS = 3.0
# The first model compiles what all share, and the next ones are compiled beside it: they take this
# part of its seconds to their first epoch. Where compiled programs are found, or on one core, there
# is less to share (13 small models: 0.25 to 0.5 in a first run, 0.7 in a second).
AFTER_THE_FIRST, AFTER_THE_FIRST_ALONE = 0.5, 0.7


class TimeIsUp(Exception):
    """A model's time is used up.

    Args:
        limit: the option that bounds it.
        why: what else is to be said.
    """

    def __init__(self, limit: str, why: str = ""):
        super().__init__(limit, why)
        self.limit, self.why = limit, why

    def reason(self, trajectory: Trajectory, epochs: int) -> str:
        """Why a model ended early, for people."""
        if not trajectory.records:
            got = "before anything was measured"
        elif not trajectory.epochs:
            got = "before its first epoch was finished"
        else:
            got = f"after {trajectory.epochs} of {epochs} epochs"
        return f"stopped by {self.limit} {got}" + (f": {self.why}" if self.why else "")


@dataclasses.dataclass(frozen=True)
class TimeShare:
    """What one model may take in one turn, in seconds from its start.

    Attributes:
        even: its part of the time budget, if all models left had the same (B1).
        own: what is left of its own budget.
        rest: what is left of the time budget.
        typical: what models are expected to take to their first epoch; 0: not known.
        promised: it has its first epoch, however long that takes.
        answered: it had its first epoch in an earlier turn of this call.
        needed: the epoch after which it can be ranked.
        refusal: why it is not started; empty: it is.
    """

    even: float = math.inf
    own: float = math.inf
    rest: float = math.inf
    typical: float = 0.0
    promised: bool = False
    answered: bool = False
    needed: int = 1
    refusal: str = ""

    def deadline(self) -> Deadline | None:
        """The end of a turn that starts now; None: nothing bounds it."""
        return None if math.isinf(min(self.even, self.own, self.rest)) else Deadline(self)

    def end(self, first: float | None) -> tuple[float, str]:
        """When the turn ends, and by which option.

        Args:
            first: when the model had its first epoch; None: it has not.
        """
        if first is None:
            return (math.inf if self.promised else self.rest), "time_budget"
        long = max(self.typical, first)
        part = self.even if long <= self.even else min(self.rest, first + long)  # (B2)
        return min((self.own, "model_time_budget"), (part, "time_budget"))


class Deadline:
    """The end of a turn.

    Args:
        share: of the turn, which starts now.
    """

    def __init__(self, share: TimeShare):
        self._share, self._start = share, time.monotonic()
        self._first = 0.0 if share.answered else None

    def __call__(self) -> None:
        """Raises `TimeIsUp` once the turn is over."""
        end, limit = self._share.end(self._first)
        if time.monotonic() - self._start >= end:
            raise TimeIsUp(limit)

    def epoch(self, epoch: int) -> None:
        """Is told of each epoch of this turn once it is finished."""
        if self._first is None and epoch >= self._share.needed:
            self._first = time.monotonic() - self._start


class TimeBudget:
    """The clock of one call.

    Args:
        config: `time_budget` and `model_time_budget`, in seconds; `predictor` and `head`.
        start: what `clock` said when the call started.
        clock: seconds; None: `time.monotonic`.
        beside: whether the next models are compiled beside the one that trains; not where compiled
            programs of an earlier run are at hand, or on one core.
        later_epochs: number of models -> what a race of them trains after their first epochs; None:
            with how many it begins is not foretold.
        trials: model -> at how many learning rates it takes its first epoch, if not at one.
    """

    def __init__(
        self,
        config: RankConfig,
        start: float,
        clock: Callable[[], float] | None = None,
        *,
        beside: bool = True,
        later_epochs: Callable[[int], int] | None = None,
        trials: Mapping[str, int] | None = None,
    ):
        self._trials = trials or {}
        self._after_the_first = AFTER_THE_FIRST if beside else AFTER_THE_FIRST_ALONE
        self._config, self._later_epochs = config, later_epochs
        self._total, self._each = config.time_budget, config.model_time_budget
        self._needed = predictors.get(config.predictor, config.head).min_epochs
        self._start, self._clock = start, clock or time.monotonic
        self._running: dict[str, float] = {}  # model -> when its turn began
        self._used: dict[str, float] = {}  # model -> seconds of its turns that are over
        self._first: dict[str, float] = {}  # model -> seconds to its first epoch in this call
        # Model -> the beginning of its turn, or the end of its last epoch.
        self._since: dict[str, float] = {}
        self._fastest: dict[str, float] = {}  # model -> seconds of its fastest epoch
        # Of the models that have no epoch from earlier calls, in the order of their turns.
        self._parameters: dict[str, float] = {}
        self._recorded = 0  # models that have one
        self._promised: str | None = None
        self._workers = 1

    @property
    def limited(self) -> bool:
        """Whether there is a budget for all models together."""
        return self._total is not None

    @property
    def races(self) -> bool:
        """Whether there is, and the models race in it."""
        return self.limited and self._config.strategy == "race"

    @property
    def answered(self) -> int:
        """How many models have had their first epoch in this call."""
        return len(self._first)

    def expect(self, parameters: Mapping[str, int | None], recorded: int = 0) -> None:
        """Take into account who will be given a first epoch.

        Args:
            parameters: model -> how many it has, as far as is known; in the order of their turns.
            recorded: how many further models have one from earlier calls.
        """
        self._recorded = recorded
        numbers = forecast.sizes(list(parameters.values()))
        self._parameters = dict(zip(parameters, numbers, strict=True))

    def rest(self) -> float:
        """Seconds that are left for training; infinite without a time budget."""
        if self._total is None:
            return math.inf
        reserve = min(RESERVED_PART * self._total, RESERVED_SECONDS)
        return max(0.0, self._start + self._total - reserve - self._clock())

    def begin(
        self, model: str, models_left: int, workers: int = 1, later_epochs: int | None = None
    ) -> TimeShare:
        """What `model` may take in the turn that begins: one of `models_left` to come or under way.

        A turn that is repeated because its worker died begins again.

        Args:
            model: its name.
            models_left: how many.
            workers: that train beside one another.
            later_epochs: of a race, which must be left when the turn is over; None: no race.
        """
        self.end(model)
        self._workers = workers
        if not self.answered and self._promised is None:
            self._promised = model
        rest = self.rest() - self.epoch_seconds() * (later_epochs or 0) / workers
        share = TimeShare(
            self._even(models_left) if later_epochs is None else rest,
            math.inf if self._each is None else self._each - self._used.get(model, 0.0),
            rest,
            statistics.median(self._firsts()) if self._total and self._first else 0.0,
            promised=self._promised == model,
            answered=model in self._first,
            needed=self._needed,
        )
        self._running[model] = self._since[model] = self._clock()
        return dataclasses.replace(share, refusal=self._refusal(share))

    def epoch(self, model: str, epoch: int) -> None:
        """Take into account that a model has finished an epoch; 0: that it was measured."""
        now = self._clock()
        if epoch > 0 and model in self._since:
            taken = (now - self._since[model]) / (self._trials.get(model, 1) if epoch == 1 else 1)
            self._fastest[model] = min(taken, self._fastest.get(model, math.inf))
        self._since[model] = now
        if epoch >= self._needed and model in self._running:
            self._first.setdefault(model, self._seconds(model))

    def epoch_seconds(self, model: str | None = None) -> float:
        """What an epoch of a model, or of any, is expected to take; 0 while nothing is known."""
        usual = statistics.median(self._fastest.values()) if self._fastest else 0.0
        return usual if model is None else self._fastest.get(model, usual)

    def end(self, model: str, *, failed: bool = False) -> None:
        """Take into account that a model's turn is over."""
        if model in self._running:
            self._used[model] = self._seconds(model)
            del self._running[model]
        if failed:
            self._first.pop(model, None)
        if self._promised == model:
            self._promised = None

    def fitting(self, models_left: int) -> int:
        """How many of the models left are expected to have an epoch; all while nothing is known."""
        if not self._first:
            return models_left
        if self._later_epochs is not None and self.races:
            return self._fitting_in_race(models_left, self._later_epochs)
        first = statistics.median(self._firsts(self._after_the_first))
        if first <= self._even(models_left):
            return models_left
        if first > self.rest():
            return 0
        epochs = statistics.median(self._seconds(m) - s for m, s in self._first.items())
        one_after_another = 1 + round((self.rest() - first) / (first + epochs))
        return min(models_left, one_after_another * self._workers)

    def racing(self) -> int:
        """With how many models a race is expected to begin, once one of them has an epoch."""
        # At later rungs those that earlier calls have recorded are trained as well.
        begun = len(self._first.keys() & self._parameters.keys())
        return self._recorded + begun + self.fitting(len(self._parameters))

    def _fitting_in_race(self, models_left: int, later_epochs: Callable[[int], int]) -> int:
        """The most of the models left that a race has time for."""
        sizes, over = self._parameters, {*self._first, *self._used}
        largest = max(sizes.values(), default=1.0)

        def taken(seconds: Mapping[str, float]) -> list[forecast.Taken]:
            return [forecast.Taken(sizes.get(m, largest), s) for m, s in seconds.items()]

        first, *others = taken(self._first)
        first = first._replace(seconds=first.seconds * self._after_the_first)
        return forecast.beginning(
            self.rest() * self._workers,
            [first, *others],
            taken({model: self.epoch_seconds(model) for model in self._first}),
            [number for model, number in sizes.items() if model not in over][:models_left],
            lambda models: later_epochs(self._recorded + models),
        )

    def doubt(self) -> str:
        """Why nobody can be compared within a budget, as far as it is known before any training."""
        needs = f"a model needs {START_SECONDS:g} seconds or more for compilation and an epoch"
        more = "is trained for an epoch all the same. Give more seconds"
        if self.rest() < START_SECONDS:
            return (
                f"time_budget={self._total:g} leaves {self.rest():.1f} seconds for training, but "
                f"{needs}. One model {more}, or fewer images"
            )
        if self._each is not None and self._each < START_SECONDS:
            return f"model_time_budget={self._each:g}, but {needs}. Each model {more}"
        return ""

    def _even(self, models_left: int) -> float:
        return self.rest() * min(self._workers, models_left) / models_left  # (B1)

    def _seconds(self, model: str) -> float:
        """What a model has taken so far, in all its turns."""
        now = self._clock()
        return self._used.get(model, 0.0) + now - self._running.get(model, now)

    def _firsts(self, part: float = AFTER_THE_FIRST) -> list[float]:
        """What models after the first are expected to take to their first epoch.

        Who is started does not depend on what is cached, only how many are foretold.
        """
        seconds = list(self._first.values())
        return seconds[1:] or [part * seconds[0]]

    def _refusal(self, share: TimeShare) -> str:
        """Why a model is not started, if it is not."""
        if share.promised:
            return ""
        if share.rest <= 0:
            return "no time was left"
        if share.answered or not self._first:
            return ""
        # What a model that is stopped within its first epoch has taken, a race lacks at its end.
        expected = statistics.median(self._firsts()) if self.races else min(self._firsts())
        if expected <= share.rest:
            return ""
        others = " beside the race's later epochs" if self.races else ""
        about = f"about {expected:.1f}" if self.races else f"{expected:.1f} or more"
        return (
            f"{share.rest:.1f} seconds were left{others}, and a first epoch was expected to take "
            f"{about}"
        )


def admission_order(specs: Sequence[ModelSpec], config: RankConfig) -> list[str]:
    """In which order models are started; without a time budget, as they were given.

    This is the place for what is known of models before a run. Now models with pretrained weights
    come before those drawn at random, then small ones before large ones: they have an epoch sooner.
    """

    def late(spec: ModelSpec) -> tuple[bool, float]:
        drawn = spec.build_pretrained is None and spec.weights in (None, "random")
        return drawn, math.inf if spec.parameters is None else spec.parameters

    chosen = specs if config.time_budget is None else sorted(specs, key=late)
    return [spec.name for spec in chosen]


def target(config: RankConfig, ended: Sequence[Trajectory], left: int, epoch: int) -> int:
    """Equation (B3): the epoch that all models left can be trained to, at most `config.epochs`.

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
    return min(config.epochs, epoch + max(0, config.epochs_budget - spent) // left)  # (B3)
