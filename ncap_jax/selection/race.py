"""A race: every model has an epoch, then ever fewer of them continue, by a fixed schedule.

Of M models that have an epoch,

    kept(k) = max(2, ⌈share_k M⌉),   share = 2/3, 1/2, 1/3 after k = 1, 2, 3 epochs          (H2)

continue after epoch k, those with the best predictions, and the last third runs to the end. In a
run of five epochs that saves two fifths of the epochs. How many are stopped is known before the
race begins, whatever the data: a plan can count on it. `ncap_jax.selection.halving` stops as many
as the predictive distribution allows instead.

"One epoch, keep the top k" is the baseline that the literature finds hard to beat; a schedule with
three cuts asks less of the first epoch. What the race costs in accuracy and saves in seconds:
experiments/race_study.py, docs/results/race.md.

The decision at a rung reads only the epochs up to it: it is the same whenever it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

from ncap_jax import predictor as predictors
from ncap_jax.options import RankConfig
from ncap_jax.predictor.base import truncate
from ncap_jax.types import Trajectory

# Epochs -> share of the models that continue after them.
SHARES: Mapping[int, Fraction] = {1: Fraction(2, 3), 2: Fraction(1, 2), 3: Fraction(1, 3)}
# A race that ends with one model has nothing left to compare.
LEAST = 2


def rungs(config: RankConfig) -> tuple[int, ...]:
    """Epochs before the last after which models are stopped, as the predictor allows."""
    needed = predictors.get(config.predictor, config.head).min_epochs
    return tuple(epoch for epoch in SHARES if needed <= epoch < config.epochs)


def kept(models: int, rung: int, shares: Mapping[int, Fraction] = SHARES) -> int:
    """Equation (H2): how many of `models` continue after the epoch `rung`."""
    return max(LEAST, math.ceil(shares[rung] * models))


def stopped(
    trajectories: Sequence[Trajectory],
    contenders: Collection[str],
    config: RankConfig,
    rung: int,
    shares: Mapping[int, Fraction] = SHARES,
) -> dict[str, str]:
    """Who is stopped at a rung, and why.

    Args:
        trajectories: of all models; only epochs up to `rung` count.
        contenders: names of those that are still in the race, each with `rung` epochs.
        config: `predictor`, `epochs`.
        rung: the epoch.
        shares: epochs -> share of the models that continue.

    Returns:
        Name -> message. Models for which the predictor has no answer are not stopped, and take
        places of (H2); of equal models the names decide.
    """
    pool = [truncate(t, rung) for t in trajectories if t.epochs >= 1]
    scores = predictors.get(config.predictor, config.head)(pool)
    known = {
        t.model: score.mean
        for t, score in zip(pool, scores, strict=True)
        if t.model in contenders and math.isfinite(score.mean)
    }
    order = sorted(known, key=lambda name: (-known[name], name))
    places = kept(len(pool), rung, shares)
    unknown = len(contenders) - len(known)
    return {
        name: f"stopped by the race after {rung} of {config.epochs} epochs: in place "
        f"{unknown + place} of {len(contenders)}, and {places} continue"
        for place, name in enumerate(order, start=1)
        if unknown + place > places
    }
