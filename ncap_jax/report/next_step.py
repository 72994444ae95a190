"""What a report says to do next: the command that trains a ranking's first models to the end."""

from __future__ import annotations

import os
import shlex

from ncap_jax.report.text import shell
from ncap_jax.selection import keeping
from ncap_jax.types import Ranking


def how_to_finish(ranking: Ranking, folder: str | os.PathLike[str]) -> str:
    """The command that trains a ranking's first models to the end; empty if it cannot be done.

    Args:
        ranking: of a run.
        folder: that holds the run.
    """
    if all(row.rank is None for row in ranking.models):
        return ""
    if ranking.config.head == "linear" and not keeping.kept(ranking):
        return ""
    if ranking.info.command is None:  # arrays, or models made in Python
        return "ncap.finish(ranking)"
    return shell(f"python -m ncap_jax finish {shlex.quote(os.fspath(folder))}")
