"""What a person sees: console table, live progress, JSON and CSV, one-file HTML, Markdown.

`write` makes every file of a ranking. Figures (matplotlib) and templates (jinja2) are imported
when they are used.
"""

from __future__ import annotations

import os
import pathlib

from ncap_jax.report import console, files
from ncap_jax.report.console import format_ranking
from ncap_jax.report.files import read_ranking
from ncap_jax.report.progress import Progress
from ncap_jax.types import Ranking

__all__ = ["Progress", "console", "files", "format_ranking", "read_ranking", "write"]


def write(ranking: Ranking, output_dir: str | os.PathLike[str]) -> None:
    """Write `ranking.json`, `ranking.csv`, `report.html` and `report.md`, each whole or not at all.

    Args:
        ranking: with its trajectories, from which the figures are drawn, and its info
            (`ncap_jax.report.html` says which keys are shown).
        output_dir: made if it is not there.

    Raises:
        OutputError: the folder cannot be written.
    """
    from ncap_jax.report import html, markdown

    folder = pathlib.Path(output_dir)
    # Everything is made before the first byte is written: an error leaves nothing half done.
    contents = {
        "ranking.json": files.ranking_to_json(ranking),
        "ranking.csv": files.ranking_to_csv(ranking),
        "report.html": html.render(ranking),
        "report.md": markdown.render(ranking),
    }
    for name, content in contents.items():
        files.write_atomically(folder / name, content)
