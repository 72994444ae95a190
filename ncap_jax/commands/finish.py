"""Train the first models of a ranking to the end, and keep the best.

    python -m ncap_jax finish RUN [--top=2] [--max_epochs=25] ...

RUN is the folder of a ranking (--output_dir). The model goes to RUN/winner: weights, figures and a
card. A finish that was interrupted resumes with the same command. Exit codes: 0, done; 2, bad
input; 130, interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from ncap_jax import errors, interrupts, options
from ncap_jax.commands import flagging
from ncap_jax.options import FinishConfig

if TYPE_CHECKING:
    from ncap_jax.types import Ranking
    from ncap_jax.winner.model import Winner


# Of a time budget, the part that is kept for the finish where both are asked for at once.
PART = 1 / 3


def main(words: Sequence[str]) -> int:
    """Do what the words after `finish` say; returns the exit code."""
    values = flags.FlagValues()
    for option in options.options_of(FinishConfig):
        flagging.define(option, values)
    others = flagging.parse(values, words, __doc__ or "")
    if len(others) != 1:
        raise errors.ConfigError(
            f"finish takes one run, not {len(others)}",
            "Write python -m ncap_jax finish RUN, with the folder of a ranking",
        )
    return run(others[0], flagging.record(FinishConfig, values))


def ranking_seconds(time_budget: float | None) -> float | None:
    """What a time budget for ranking and finish leaves for the ranking; None: there is none."""
    return None if time_budget is None else (1 - PART) * time_budget


def within(ranking: Ranking, top: int, time_budget: float | None) -> FinishConfig:
    """How a ranking is finished in what its time budget has kept for that.

    As many epochs are trained as fit at the pace of the ranking, one at least. What is found
    follows from the ranking alone, so that the same command resumes.

    Args:
        ranking: with its trajectories.
        top: how many models are finished.
        time_budget: of ranking and finish, in seconds; None: there is none.
    """
    config = FinishConfig(top=top)
    rows = [row.name for row in ranking.models if row.rank is not None][:top]
    runs = [t for t in ranking.trajectories if t.model in rows and t.epochs]
    if time_budget is None or not runs:
        return config
    epochs = [[record.seconds for record in run.records[1:]] for run in runs]
    # A model is built and compiled again for its finish.
    starts = sum(max(0.0, run.seconds - sum(each)) for run, each in zip(runs, epochs))
    pace = sum(min(each) for each in epochs)
    fit = int(max(0.0, PART * time_budget - starts) / pace) if pace else config.max_epochs
    return dataclasses.replace(config, max_epochs=min(config.max_epochs, max(1, fit)))


def run(
    folder: str | os.PathLike[str], config: FinishConfig, ranking: Ranking | None = None
) -> int:
    """Finish a run and print what came of it; returns the exit code.

    Args:
        folder: of the run.
        config: of the finish.
        ranking: of the run, if it is in memory; None: it is read.
    """
    from ncap_jax import api

    again = f"; python -m ncap_jax finish {shlex.quote(os.fspath(folder))} resumes"
    try:
        with interrupts.job(lambda: again):
            winner = api.finish(folder if ranking is None else ranking, config=config)
    except KeyboardInterrupt:
        interrupts.announce(f"interrupted{again}")
        return interrupts.EXIT_CODE
    show(winner, pathlib.Path(folder))
    return 0


def show(winner: Winner, folder: pathlib.Path) -> None:
    """Print the winner's figures, where it is, and how it is used."""
    from ncap_jax.report import text

    print(f"Winner: {text.visible(winner.name)}")
    for part, figures in winner.facts.metrics.items():
        print(f"{part.capitalize()} part: {figures}")
    place = os.fspath(folder / "winner")
    print(f"Model: {text.visible(place)}")
    use = text.shell(f"python -m ncap_jax predict {shlex.quote(place)}")
    print(f"Use it: {use} IMAGES")
