"""A ranking whose names hold characters that no reader sees, or that move a terminal's cursor."""

from __future__ import annotations

import dataclasses
import unicodedata

from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import Ranking
from tests.support.page import whole_info
from tests.support.pool import make_pool

# Name of a model -> as it is shown: colours, NUL, a line turned right to left.
NAMES = {
    "red\x1b[31m": r"red\x1b[31m",
    "cut\x00off": r"cut\x00off",
    "turned\u202etxt": r"turned\u202etxt",
}
WRITTEN = tuple(NAMES.values())


def ranking() -> Ranking:
    """Three models of such names; class, data, device, a message and the command have some too."""
    pool = [dataclasses.replace(t, model=n) for t, n in zip(make_pool(3), NAMES, strict=True)]
    pool[2] = dataclasses.replace(pool[2], status="failed", message="bell\x07 and\nnext line")
    info = whole_info(
        class_names=("nul\x00", "iso\u2066late"),
        data={"esc\x1b": "c1\x9b"},
        device="cpu\x1b",
        command="python -m ncap_jax --dataset='a\x1bb'",
    )
    return rank_trajectories(pool, "data\x1bset", info=info)


def found(words: str) -> list[str]:
    """Control and format characters in a text, line ends aside."""
    return [c for c in words if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
