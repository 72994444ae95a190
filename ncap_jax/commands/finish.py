"""Train the first models of a ranking to the end, and keep the best.

    python -m ncap_jax finish RUN [--top=2] [--max_epochs=25] ...

RUN is the folder of a ranking (--output_dir). The model goes to RUN/winner: weights, figures and a
card. A finish that was interrupted resumes with the same command. Exit codes: 0, done; 2, bad
input; 130, interrupted.
"""

from __future__ import annotations

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
