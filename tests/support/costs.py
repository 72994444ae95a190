"""Rankings whose models cost something."""

from __future__ import annotations

import dataclasses

from ncap_jax.types import InferenceCost, InferenceSpeed, Ranking


def cost(parameters: int | None, *, measured: bool = False) -> InferenceCost:
    """A model's cost, each figure in proportion to its parameters."""
    number = parameters or 0
    speeds = (
        InferenceSpeed(1, 2e-9 * number, 5 * number),
        InferenceSpeed(64, 5e-8 * number, 50 * number),
    )
    return InferenceCost(
        parameters, 2.0 * number, "Apache-2.0", speeds if measured and number else ()
    )


def priced(ranking: Ranking, *, measured: bool = False) -> Ranking:
    """A ranking whose first model has a million parameters, the second two, and so on."""
    rows = (
        dataclasses.replace(row, cost=cost(1_000_000 * place, measured=measured))
        for place, row in enumerate(ranking.models, start=1)
    )
    return dataclasses.replace(ranking, models=tuple(rows))
