"""How many models each step of a run leaves: candidates, filtered, recalled, raced, finished."""

from __future__ import annotations

from ncap_jax.types import FunnelStep, Ranking


def trained(ranking: Ranking) -> FunnelStep:
    """The step of fine-tuning: who ran to the end, and the seconds that all models took."""
    stops = ranking.config.strategy in ("race", "halving")
    ended = sum(row.status == "ok" for row in ranking.models)
    seconds = sum(row.seconds for row in ranking.models)
    return FunnelStep("raced" if stops else "trained", ended, seconds)
