"""Live progress: models, epochs, time left, current best.

A bar in a terminal or a notebook, one plain line an epoch everywhere else (log files, CI).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, cast

from ncap_jax.options import Metric
from ncap_jax.output import SafeStream
from ncap_jax.predictor.validation_score import score
from ncap_jax.report import text
from ncap_jax.report.pace import Pace
from ncap_jax.selection.budget import TimeBudget
from ncap_jax.types import EpochRecord, Trajectory, Watcher

if TYPE_CHECKING:
    from rich import progress


UNKNOWN = "not known yet"
# A forecast is stated again once it has changed by this part of itself.
CHANGED = 0.2
# Models that have an epoch before a changed forecast is stated.
TELLING = 3


class Watchers:
    """Several watchers as one."""

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = tuple(watchers)

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Tell every watcher."""
        for watcher in self._watchers:
            watcher.epoch(model, record)

    def finished(self, trajectory: Trajectory) -> None:
        """Tell every watcher."""
        for watcher in self._watchers:
            watcher.finished(trajectory)


def line_printer(file: TextIO | None = None, *, shown: bool = True) -> Callable[[str], None]:
    """A function that prints a line of what goes on before models are trained.

    Args:
        file: where; None: standard error.
        shown: whether anything is printed.
    """
    stream = cast(TextIO, SafeStream(sys.stderr if file is None else file))

    def tell(line: str) -> None:
        if shown:
            print(text.visible(line), file=stream, flush=True)

    return tell


class Progress:
    """Shows the progress of a ranking run; call it from the loop over models.

        with Progress(["a", "b"], epochs=5) as progress:
            progress.epoch("a", record)        # after every epoch, epoch 0 included
            progress.finished(trajectory)      # when a model is done, however it ended

    Args:
        models: names, in any order; they may run in parallel.
        epochs: epochs of training per model.
        file: where it is written; None: standard error, so that standard output has only the table.
        programs: where compiled programs come from, a sentence for the plan; None: not said.
        clock: the time budget, which may end the run with epochs left; None: there is none.
        notes: further sentences for the plan.
        metric: the validation score that is shown.
    """

    def __init__(
        self,
        models: Sequence[str],
        epochs: int,
        file: TextIO | None = None,
        *,
        programs: str | None = None,
        clock: TimeBudget | None = None,
        notes: Sequence[str] = (),
        metric: Metric = "accuracy",
    ):
        from rich.console import Console

        self._total = len(models) * epochs
        self._epochs = epochs
        self._models = len(models)
        self._metric: Metric = metric
        self._programs, self._clock, self._notes = programs, clock, tuple(notes)
        self._done: dict[str, int] = dict.fromkeys(models, 0)
        self._finished = 0
        self._best: tuple[float, str] | None = None
        self._begun: set[str] = set()
        self._fit_told = clock is None or not clock.limited
        self._answered, self._racing_told = 0, 0
        self._pace = Pace()
        self._start = time.monotonic()
        self._console = Console(
            # What cannot be shown must not end what is shown.
            file=cast(TextIO, SafeStream(sys.stderr if file is None else file)),
            # A given file is written to in a notebook, too.
            force_jupyter=None if file is None else False,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._live = self._console.is_terminal or self._notebook()
        self._bar: progress.Progress | None = None

    def _notebook(self) -> bool:
        # rich draws a live bar in a notebook only through ipywidgets; plain lines otherwise.
        if not self._console.is_jupyter:
            return False
        try:
            import ipywidgets  # noqa: F401
        except ImportError:
            return False
        return True

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        for line in self._plan():
            self._line(line)
        if self._live:
            from rich import progress

            bar = self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left {task.fields[left]}"),
                console=self._console,
            )
            self._task = bar.add_task(self._headline(), total=self._total, left=UNKNOWN)
            bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Show one epoch of one model."""
        self._done[model] = record.epoch
        self._begun.add(model)
        self._pace.epoch(model, record)
        seen = score(record, self._metric)
        if math.isfinite(seen) and (self._best is None or seen > self._best[0]):
            self._best = (seen, model)
        if self._bar is not None:
            self._update()
            self._tell_who_races()
            return
        self._line(
            f"{model}: epoch {record.epoch}/{self._epochs}, "
            f"validation {text.metric_name(self._metric)} {text.percent(seen)}, "
            f"loss {text.number(record.validation_loss)} ({text.duration(record.seconds)}); "
            f"time left {self._left()}"
        )
        self._tell_who_races()

    def finished(self, trajectory: Trajectory) -> None:
        """Show how a model ended; the epochs that it did not run count as done."""
        self._finished += 1
        self._done[trajectory.model] = self._epochs
        self._begun.add(trajectory.model)
        message = f": {trajectory.message}" if trajectory.message else ""
        line = (
            f"{trajectory.model}: {trajectory.status.replace('_', ' ')} after "
            f"{trajectory.epochs} epochs, {text.duration(trajectory.seconds)}{message} "
            f"[{self._finished}/{self._models} models]"
        )
        if self._bar is not None:
            self._update()
        self._line(line)
        self._tell_who_fits()

    def note(self, line: str) -> None:
        """Show a line of what is done beside the epochs."""
        self._line(line)

    def seconds_left(self) -> float:
        """An estimate from epochs and starts (compilation) so far; NaN before the first epoch."""
        left = self._pace.left(
            time.monotonic() - self._start,
            epochs_left=self._total - sum(self._done.values()),
            models_left=self._models - len(self._begun),
        )
        return left if self._clock is None else min(left, self._clock.rest())

    def _plan(self) -> list[str]:
        """What will be done, before any of it is."""
        models = f"{self._models} model{'s' if self._models != 1 else ''}"
        epochs = f"{self._epochs} epoch{'s' if self._epochs != 1 else ''}"
        each = " each" if self._models != 1 else ""
        lines = [
            f"Plan: {models}, {epochs}{each}. Every model is compiled first, which on small data "
            "takes longer than its epochs."
        ]
        if self._programs is not None:
            lines.append(self._programs)
        lines.extend(self._notes)
        if not self._fit_told and self._clock is not None:
            lines.append(
                "Time budget: models have their first epoch one after another, as long as there is "
                "time for the race that follows."
                if self._clock.races
                else "Time budget: models are taken one after another while it lasts."
            )
        return [*lines, f"Time left, compilation included: {UNKNOWN}, until an epoch is trained."]

    def _tell_who_fits(self) -> None:
        """Say once, after the first model with an epoch, how far the time budget will reach."""
        if self._fit_told or self._clock is None or not self._clock.answered:
            return
        self._fit_told = True
        others = self._models - self._finished
        fitting = self._clock.fitting(others) if others else 0
        self._line(
            f"Time budget: of the {others} models left about {fitting} will be trained, in "
            f"{self._left()}."
        )

    def _tell_who_races(self) -> None:
        """Say with how many models the race will begin, and again once that has changed."""
        if self._clock is None or not self._clock.races or self._clock.answered == self._answered:
            return
        self._fit_told, self._answered, told = True, self._clock.answered, self._racing_told
        # The second smallest model is often as quick as the smallest, and the others are not.
        if told and self._answered < TELLING:
            return
        racing = self._clock.racing()
        if abs(racing - told) >= CHANGED * told:
            self._racing_told = racing
            self._line(
                f"Time budget: {'now ' if told else ''}about {racing} of {self._models} models "
                f"will race, in {text.duration(self._clock.rest())}."
            )

    def _left(self) -> str:
        seconds = self.seconds_left()
        return UNKNOWN if math.isnan(seconds) else text.duration(seconds)

    def _headline(self) -> str:
        best = ""
        if self._best is not None:
            best = f", best {text.visible(self._best[1])} {text.percent(self._best[0])}"
        return f"{self._finished}/{self._models} models{best}"

    def _update(self) -> None:
        assert self._bar is not None
        self._bar.update(
            self._task,
            completed=sum(self._done.values()),
            description=self._headline(),
            left=self._left(),
        )

    def _line(self, line: str) -> None:
        # soft_wrap: a log line stays one line, whatever width the file is assumed to have.
        self._console.print(text.visible(line), soft_wrap=True)
