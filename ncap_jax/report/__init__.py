"""What a person sees: console table, live progress, JSON and CSV, one-file HTML, Markdown.

`write` makes every file of a ranking. Figures (matplotlib) and templates (jinja2) are imported
when they are used.
"""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from ncap_jax.files import write_atomically
from ncap_jax.report import ranking_files
from ncap_jax.report.console import format_ranking
from ncap_jax.report.progress import Progress
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.types import Ranking

if TYPE_CHECKING:
    from ncap_jax.report.finished import FinishedRun

__all__ = ["Progress", "format_ranking", "read_ranking", "write"]


def write(
    ranking: Ranking, output_dir: str | os.PathLike[str], finished: FinishedRun | None = None
) -> None:
    """Write `ranking.json`, `ranking.csv`, `report.html` and `report.md`, each atomically.

    Args:
        ranking: with its trajectories, from which the figures are drawn, and its info, of which
            the reports show what is there (`ncap_jax.types.RunInfo`).
        output_dir: made if it is not there.
        finished: what became of the first models, for the reports; None: nothing yet.

    Raises:
        OutputError: the folder cannot be written.
    """
    from ncap_jax.report import html, markdown
    from ncap_jax.report.next_step import how_to_finish

    folder = pathlib.Path(output_dir)
    how = how_to_finish(ranking, folder)
    # Everything is made before the first byte is written: an error leaves nothing half done.
    contents = {
        "ranking.json": ranking_files.ranking_to_json(ranking),
        "ranking.csv": ranking_files.ranking_to_csv(ranking),
        "report.html": html.render(ranking, finished, how),
        "report.md": markdown.render(ranking, finished, how),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
