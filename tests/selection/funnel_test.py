"""The last step of a ranking's funnel."""

from __future__ import annotations

import dataclasses

from ncap_jax.options import RankConfig
from ncap_jax.selection import funnel
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import FunnelStep
from tests.support.pool import make_pool


def test_who_ran_to_the_end_and_what_all_took():
    pool = make_pool(models=3, epochs=2)
    pool[2] = dataclasses.replace(pool[2], status="stopped", records=pool[2].records[:2])
    config = RankConfig(head="trainable_probe", epochs=2)
    ranking = rank_trajectories(pool, "set", config)
    seconds = sum(each.seconds for each in pool)
    assert funnel.trained(ranking) == FunnelStep("trained", 2, seconds)
    raced = dataclasses.replace(ranking, config=dataclasses.replace(config, strategy="race"))
    assert funnel.trained(raced) == FunnelStep("raced", 2, seconds)
