"""A race: every model has an epoch, then ever fewer of them continue.

Of M models that have an epoch,

    kept(k) = max(3, ⌈share_k M⌉),   share = 1/2, 1/3, 1/4, 1/5 after k = 1, 2, 3, 4 epochs  (H2)

continue after epoch k, those with the best predictions, and so does everybody whom m validation
images cannot tell from the last of these: with validation scores a of that one and b,

    a − b ≤ standard error of the difference, (S5) of `ncap_jax.predictor.validation_score`  (H3)

So few images stop few models, and with many images the schedule alone decides. A race of thirteen
models saves two fifths of five epochs. It never stops more models than (H2) says, which is known
before it begins. `ncap_jax.selection.halving` stops as many as the
predictive distribution allows instead.

"One epoch, keep the top k" is the baseline that the literature finds hard to beat; a schedule with
several cuts asks less of the first epoch. What the race costs in accuracy and saves in seconds:
experiments/race_study.py, docs/results/race.md.

The decision at a rung reads only the epochs up to it: it is the same whenever it is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

from ncap_jax import predictor as predictors
from ncap_jax.options import RankConfig
from ncap_jax.predictor.base import truncate
from ncap_jax.predictor.validation_score import (
    counted_images,
    difference_error,
    effective_images,
)
from ncap_jax.types import Trajectory

# Epochs -> share of the models that continue after them.
SHARES: Mapping[int, Fraction] = {k: Fraction(1, k + 1) for k in (1, 2, 3, 4)}
# Of the difference (H3), within which nobody is stopped.
STANDARD_ERRORS = 1.0
# Three models are soon trained, and a race that ends with fewer has little left to compare.
LEAST = 3


def rungs(config: RankConfig) -> tuple[int, ...]:
    """Epochs before the last after which models are stopped, as the predictor allows."""
    needed = predictors.get(config.predictor, config.head).min_epochs
    return tuple(epoch for epoch in SHARES if needed <= epoch < config.epochs)


def settled(config: RankConfig, models: int, *, together: bool = False) -> RankConfig:
    """The configuration with what the strategy `auto` comes to.

    A budget divides what there is over the models itself, and several processes that train one
    model together would have to agree who is stopped.

    Args:
        config: `strategy` and the budgets.
        models: how many are trained.
        together: whether several processes train each of them.
    """
    if config.strategy != "auto":
        return config
    budgets = (config.time_budget, config.model_time_budget, config.epochs_budget)
    full = models <= LEAST or together or any(budget is not None for budget in budgets)
    return dataclasses.replace(config, strategy="full" if full else "race")


def kept(models: int, rung: int, shares: Mapping[int, Fraction] = SHARES) -> int:
    """Equation (H2): the least number of `models` that continue after the epoch `rung`."""
    return max(LEAST, math.ceil(shares[rung] * models))


def stopped(
    trajectories: Sequence[Trajectory],
    contenders: Collection[str],
    config: RankConfig,
    rung: int,
    shares: Mapping[int, Fraction] = SHARES,
    margin: float = STANDARD_ERRORS,
) -> dict[str, str]:
    """Who is stopped at a rung, and why.

    Args:
        trajectories: of all models, their validation accuracies being the scores; only epochs up to
            `rung` count. Where they do not count images, (H3) keeps nobody.
        contenders: names of those that are still in the race, each with `rung` epochs.
        config: `predictor`, `epochs`, `metric`.
        rung: the epoch.
        shares: epochs -> share of the models that continue.
        margin: standard errors of (H3).

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
    unknown = len(contenders) - len(known)
    places = max(0, kept(len(pool), rung, shares) - unknown)
    seen = {t.model: t.records[-1].validation_accuracy for t in pool}
    images = effective_images(counted_images(pool), config.metric)
    behind = [
        name
        for name in order[places:]
        if not places or not _alike(seen[order[places - 1]], seen[name], images, margin)
    ]
    left = len(contenders) - len(behind)
    return {
        name: f"stopped by the race after {rung} of {config.epochs} epochs: in place "
        f"{unknown + order.index(name) + 1} of {len(contenders)}, and {left} continue"
        for name in behind
    }


def _alike(ahead: float, behind: float, images: int, margin: float) -> bool:
    """Whether this number of images cannot tell two scores apart (H3); 0 images: not known."""
    return images > 0 and ahead - behind <= margin * difference_error(ahead, behind, images)
