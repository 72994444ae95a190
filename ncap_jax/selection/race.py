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

In a time budget a race begins with as many models as it can bring to its end. Let a model take F
seconds to its first epoch and E for a further one. With w workers and r seconds left, M models do
not take longer if

    M F + E later(M, 1) ≤ w r,   later(M, k) = Σ_(i ≥ k) kept(i) (next(i) − i)               (H4)

where next(i) is the rung after i, or the last epoch. So a further model is started as long as
E later(M, 1) / w seconds are left after its first epoch (`ncap_jax.selection.budget`). At a rung
those that (H3) spares continue as far as there is time for them, the best first.
"""

from __future__ import annotations

import dataclasses
import itertools
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

    A budget of epochs, or of each model's time, divides what there is over the models itself, and
    several processes that train one model together would have to agree who is stopped.

    Args:
        config: `strategy` and these budgets.
        models: how many are trained.
        together: whether several processes train each of them.
    """
    if config.strategy != "auto":
        return config
    budgets = (config.model_time_budget, config.epochs_budget)
    full = models <= LEAST or together or any(budget is not None for budget in budgets)
    return dataclasses.replace(config, strategy="full" if full else "race")


def epochs_after(models: int, epoch: int, config: RankConfig, *, alive: int | None = None) -> int:
    """later(M, k) of (H4): epochs that a race trains once those that are in it have one.

    Args:
        models: that have an epoch, or will have one, M.
        epoch: the rung k.
        config: `epochs` and `predictor`.
        alive: how many of them are still in the race at most; None: all.
    """
    most = models if alive is None else alive
    stops = [rung for rung in rungs(config) if rung >= epoch]
    ways = itertools.pairwise((*stops, config.epochs))
    return sum(min(most, kept(models, rung)) * (end - rung) for rung, end in ways)


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
    pool = _pool(trajectories, rung)
    order = _order(pool, contenders, config)
    unknown = len(contenders) - len(order)
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
        name: f"{_stopped_after(rung, config)}: in place "
        f"{unknown + order.index(name) + 1} of {len(contenders)}, and {left} continue"
        for name in behind
    }


def out_of_time(
    trajectories: Sequence[Trajectory],
    contenders: Collection[str],
    config: RankConfig,
    rung: int,
    seconds: Mapping[str, float],
    left: float,
) -> dict[str, str]:
    """Who is stopped at a rung because there is time for the best alone (H4), and why.

    Args:
        trajectories: see `stopped`, after which this decides.
        contenders: likewise, in any order.
        config: likewise.
        rung: likewise.
        seconds: what an epoch of each contender is expected to take.
        left: seconds for all that is still trained, those of all workers added up.

    Returns:
        As `stopped`. The first one is never stopped here.
    """
    pool = _pool(trajectories, rung)
    order = _order(pool, contenders, config)
    order = [name for name in contenders if name not in order] + order
    after = next((each for each in rungs(config) if each > rung), config.epochs)
    spent, fit = 0.0, 1
    for place, name in enumerate(order, start=1):
        spent += seconds[name] * (after - rung)
        mean = spent / (place * (after - rung))
        if spent + mean * epochs_after(len(pool), after, config, alive=place) > left:
            break
        fit = place
    return {
        name: f"{_stopped_after(rung, config)}: in place {order.index(name) + 1} of "
        f"{len(contenders)}, and time_budget leaves time for {fit}"
        for name in order[fit:]
    }


def _stopped_after(rung: int, config: RankConfig) -> str:
    return f"stopped by the race after {rung} of {config.epochs} epochs"


def _pool(trajectories: Sequence[Trajectory], rung: int) -> list[Trajectory]:
    """What is compared at a rung."""
    return [truncate(t, rung) for t in trajectories if t.epochs >= 1]


def _order(
    pool: Sequence[Trajectory], contenders: Collection[str], config: RankConfig
) -> list[str]:
    """The contenders that the predictor has an answer for, the best first."""
    scores = predictors.get(config.predictor, config.head)(pool)
    known = {
        t.model: score.mean
        for t, score in zip(pool, scores, strict=True)
        if t.model in contenders and math.isfinite(score.mean)
    }
    return sorted(known, key=lambda name: (-known[name], name))


def _alike(ahead: float, behind: float, images: int, margin: float) -> bool:
    """Whether this number of images cannot tell two scores apart (H3); 0 images: not known."""
    return images > 0 and ahead - behind <= margin * difference_error(ahead, behind, images)
