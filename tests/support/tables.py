"""Tables in Markdown, as the studies print them and as they are committed."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "tables"
# Their fits take most of the time of a table of all methods.
CURVES = ("power_law", "curve_families")


def rows(text: str) -> list[str]:
    """The lines of all tables of a text."""
    return [line for line in text.splitlines() if line.startswith("|")]


def committed(name: str) -> list[str]:
    """The lines of all tables of a study."""
    return rows((FOLDER / f"{name}.md").read_text(encoding="utf-8"))


def without_intervals(lines: Sequence[str]) -> list[str]:
    """The lines without what a bootstrap of few draws gets wrong."""
    return [re.sub(r" \[[^]]*\]", "", line) for line in lines]


def without_rows(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    """The lines but for those of some methods."""
    return [line for line in lines if not line.startswith(tuple(f"| {name} |" for name in names))]
