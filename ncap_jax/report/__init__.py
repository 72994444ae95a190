"""What a person sees: console table, live progress, JSON and CSV, one-file HTML, Markdown.

`write` makes every file of a ranking. Figures (matplotlib) and templates (jinja2) are imported
when they are used.
"""

from __future__ import annotations

import os
import pathlib

from ncap_jax.files import write_atomically
from ncap_jax.report import ranking_files
from ncap_jax.report.console import format_ranking
from ncap_jax.report.progress import Progress
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.types import Ranking

__all__ = ["Progress", "format_ranking", "read_ranking", "write"]


def write(ranking: Ranking, output_dir: str | os.PathLike[str]) -> None:
    """Write `ranking.json`, `ranking.csv`, `report.html` and `report.md`, each atomically.

    Args:
        ranking: with its trajectories, from which the figures are drawn, and its info, of which
            the reports show what is there (`ncap_jax.types.RunInfo`).
        output_dir: made if it is not there.

    Raises:
        OutputError: the folder cannot be written.
    """
    from ncap_jax.report import html, markdown

    folder = pathlib.Path(output_dir)
    # Everything is made before the first byte is written: an error leaves nothing half done.
    contents = {
        "ranking.json": ranking_files.ranking_to_json(ranking),
        "ranking.csv": ranking_files.ranking_to_csv(ranking),
        "report.html": html.render(ranking),
        "report.md": markdown.render(ranking),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
