"""Successive halving driven by the predictive distribution.

All models train to epochs 1, 2, 4, ... (rungs). At each rung the chance c_m of being among the best
k is taken from the predictor's own distribution, equation (H1) of `ncap_jax.selection.contest`, and
models with c_m < threshold are stopped. Successive halving proper stops a fixed share (Jamieson &
Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016, arXiv
1502.07943). Here as many are stopped as the data allow: none where nothing can be told yet, and at
least k models are always left.

The decision at a rung reads only the epochs up to it, of all models: it is the same whenever and
however often it is taken. How often it is wrong: experiments/halving_study.py,
docs/results/halving.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ncap_jax import predictor as predictors
from ncap_jax.options import RankConfig
from ncap_jax.predictor import growth
from ncap_jax.predictor.base import truncate
from ncap_jax.predictor.validation_score import counted_images, effective_images
from ncap_jax.selection import contest
from ncap_jax.types import Trajectory


def rungs(config: RankConfig) -> tuple[int, ...]:
    """Epochs before the last at which models are compared: 1, 2, 4, ... as the predictor allows."""
    needed = predictors.get(config.predictor, config.head).min_epochs
    powers = (2**i for i in range(max(config.epochs, 1).bit_length()))
    return tuple(epoch for epoch in powers if needed <= epoch < config.epochs)


def chances(
    trajectories: Sequence[Trajectory],
    contenders: Collection[str],
    config: RankConfig,
    rung: int,
    priors: growth.Priors = growth.PRIORS,
) -> dict[str, float]:
    """Equation (H1): every contender's chance of being among the best `config.halving_top`.

    Args:
        trajectories: of all models; only epochs up to `rung` count.
        contenders: names of those that are still in the race, each with `rung` epochs.
        config: `predictor`, `halving_top`, `seed`.
        rung: the epoch.
        priors: what finished runs say of growth, by head.

    Returns:
        By name; NaN for models without a predictive distribution, which count as below all others.
    """
    chosen = predictors.get(config.predictor, config.head)
    pool = [truncate(t, rung) for t in trajectories if t.epochs >= 1]
    images = effective_images(counted_images(pool), config.metric) or None
    answers = predictors.accuracies(chosen, pool, priors=priors, images=images)
    known = {
        t.model: prediction
        for t, prediction in zip(pool, answers, strict=True)
        if t.model in contenders and contest.has_distribution(prediction)
    }
    found = dict.fromkeys(contenders, math.nan)
    if known:
        shares = contest.chances(list(known.values()), config.halving_top, seed=(config.seed, rung))
        found |= dict(zip(known, shares.tolist(), strict=True))
    return found


def stopped(
    trajectories: Sequence[Trajectory],
    contenders: Collection[str],
    config: RankConfig,
    rung: int,
    priors: growth.Priors = growth.PRIORS,
) -> dict[str, str]:
    """Who is stopped at a rung, and why.

    Args: as for `chances`.

    Returns:
        Name -> message, for the contenders whose chance is below `config.halving_threshold`,
        except the `config.halving_top` with the highest chances: among many equals every chance
        is small.
    """
    found = chances(trajectories, contenders, config, rung, priors)
    # Models whose chance is not known are never stopped, so they count among the k that are left.
    known = sorted((n for n in found if found[n] >= 0), key=lambda name: (-found[name], name))
    safe = known[: max(0, config.halving_top - (len(found) - len(known)))]
    best = "the best" if config.halving_top == 1 else f"among the best {config.halving_top}"
    return {
        name: f"stopped by halving after {rung} of {config.epochs} epochs: its chance of being "
        f"{best} is {100 * chance:.1f} %"
        for name, chance in found.items()
        if chance < config.halving_threshold and name not in safe
    }
