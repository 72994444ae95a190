"""Whose fine-tuned state is kept for `ncap_jax.finish`, so that a run's disk use is bounded.

At the end it is that of the first `keep_states` models and of those on the shortlist, at most
`MOST` in all unless `keep_states` is more. The shortlist is known once all models have ended. Until
then as many states are kept as there may be at the end: of the models that lead so far.
"""

from __future__ import annotations

from collections.abc import Sequence

from ncap_jax.options import RankConfig
from ncap_jax.selection import ranking as rankings
from ncap_jax.types import Ranking, Trajectory

MOST = 5


def most_states(config: RankConfig) -> int:
    """How many states a run keeps at most.

    None of probes: what is finished has a linear head, and starts from the pretrained weights.
    """
    if not config.keep_states or config.head != "linear":
        return 0
    return max(MOST, config.keep_states)


def leaders(trajectories: Sequence[Trajectory], config: RankConfig) -> tuple[str, ...]:
    """The models whose states are kept while others still train.

    Args:
        trajectories: of the models that have ended.
        config: of the run.
    """
    most = most_states(config)
    return rankings.names_in_order(trajectories, config)[:most] if most else ()


def kept(ranking: Ranking) -> tuple[str, ...]:
    """The models of a ranking whose states are kept, in its order."""
    config = ranking.config
    # Without deviations the shortlist is empty, and only equal models are as good.
    good = ranking.shortlist or [row.name for row in ranking.models if row.tied_with_best]
    wanted = (
        row.name
        for row in ranking.models
        if row.rank is not None and (row.rank <= config.keep_states or row.name in good)
    )
    return tuple(wanted)[: most_states(config)]
