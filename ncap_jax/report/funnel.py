"""The way from the candidates to the winner: how many models each step left, and its seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ncap_jax.report import text
from ncap_jax.types import FunnelStep, LeftOut, Ranking

if TYPE_CHECKING:
    from ncap_jax.report.finished import FinishedRun

HEADER = ("step", "models left", "time")
TITLE = "From the candidates to the winner"
FINISHED = "finished"
# A sentence names at most this many models that are left out; the others are counted.
MOST_NAMED = 8
_WORDS: Mapping[str, str] = {
    "candidates": "candidates",
    "filtered": "filtered by licence, size, speed and weights",
    "recalled": "recalled: chosen for fine-tuning",
    "raced": "raced: ran to the last epoch",
    "trained": "trained to the last epoch",
    FINISHED: "finished: trained to convergence",
}


def with_finish(ranking: Ranking, finished: FinishedRun | None) -> Ranking:
    """A ranking whose funnel ends with its finish, if there was one."""
    if finished is None or not ranking.funnel:
        return ranking
    steps = [step for step in ranking.funnel if step.step != FINISHED]
    last = FunnelStep(FINISHED, len(finished.models), finished.seconds)
    return dataclasses.replace(ranking, funnel=(*steps, last))


def rows(ranking: Ranking) -> list[tuple[str, str, str]]:
    """The cells of a table; none where every candidate was trained, and there is nothing to tell.

    Args:
        ranking: see `with_finish`.
    """
    if not ranking.left_out:
        return []
    return [
        (
            _WORDS.get(step.step, step.step),
            f"{step.models:,}",
            text.duration(math.nan if step.seconds is None else step.seconds),
        )
        for step in ranking.funnel
    ]


def left_out(ranking: Ranking) -> str:
    """Who was left out before training, in one sentence or two; empty if nobody was.

    Those that failed come first; of many only the first are named. Whoever was not recalled has a
    reason of no interest, a place in an order.
    """
    order = in_order(ranking)
    reasons = [
        f"{text.visible(each.name)}, {text.visible(each.reason)}"
        for each in order
        if each.step != "recall"
    ]
    names = [text.visible(each.name) for each in order if each.step == "recall"]
    sentences = []
    if reasons:
        sentences.append(f"Left out before training: {_some(reasons, '; ')}.")
    if names:
        sentences.append(f"Not recalled: {_some(names, ', ')}.")
    return " ".join(sentences)


def _some(words: Sequence[str], between: str) -> str:
    """All of a few words; of many the first, and how many more there are."""
    if len(words) <= MOST_NAMED:
        return between.join(words)
    named = between.join(words[: MOST_NAMED - 1])
    return f"{named}{between}and {len(words) - MOST_NAMED + 1:,} more, all of them in ranking.json"


def in_order(ranking: Ranking) -> list[LeftOut]:
    """The models that were left out, those that failed first."""
    return sorted(ranking.left_out, key=lambda each: each.step != "failed")
