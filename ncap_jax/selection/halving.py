"""Successive halving driven by the predictive distribution.

All models train to epochs 1, 2, 4, ... (rungs). At each rung the chance of being among the best k
is taken from the predictor's own distribution: independent normals N(mean, own_std²) per model,
as for P(best) in `ncap_jax.selection.ranking`, sampled `_DRAWS` times,

    c_m = share of draws in which fewer than k other models are above m                     (H1)

and models with c_m < threshold are stopped. Unlike successive halving with a fixed share (Jamieson
& Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016,
arXiv 1502.07943) as many are stopped as the data allow, none where nothing can be told yet, and
never so many that fewer than k are left.

The decision at a rung reads only the epochs up to it, of all models: it comes out the same
whenever and however often it is taken. How often it is wrong: experiments/halving_study.py,
docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from ncap_jax import errors
from ncap_jax import predictor as predictors
from ncap_jax.predictor.base import truncate
from ncap_jax.predictor.calibration import calibrated
from ncap_jax.types import RankConfig, Trajectory

STRATEGIES = ("full", "halving")
_DRAWS = 20_000


def rungs(config: RankConfig) -> tuple[int, ...]:
    """Epochs at which models are compared before the last: 1, 2, 4, ... as the predictor allows."""
    if config.strategy != "halving":
        return ()
    needed = predictors.get(config.predictor, config.head).min_epochs
    powers = (2**i for i in range(max(config.epochs, 1).bit_length()))
    return tuple(epoch for epoch in powers if needed <= epoch < config.epochs)


def chances(
    trajectories: Sequence[Trajectory], contenders: Collection[str], config: RankConfig, rung: int
) -> dict[str, float]:
    """Equation (H1): every contender's chance of being among the best `config.halving_top`.

    Args:
        trajectories: of all models; only epochs up to `rung` are looked at.
        contenders: names of those that are still in the race, each with `rung` epochs.
        config: `predictor`, `halving_top`, `seed`.
        rung: the epoch.

    Returns:
        By name; NaN for models without a predictive distribution, which count as below all.
    """
    chosen = predictors.get(config.predictor, config.head)
    pool = [truncate(t, rung) for t in trajectories if t.epochs >= 1]
    answers = calibrated(chosen, pool) if chosen.scores_only else chosen(pool)
    known = {t.model: p for t, p in zip(pool, answers, strict=True) if t.model in contenders}
    names = [n for n, p in known.items() if math.isfinite(p.mean) and math.isfinite(p.std)]
    if not names:
        return dict.fromkeys(contenders, math.nan)
    mean = np.array([known[n].mean for n in names])
    # What is common to the pool decides nothing between its models.
    std = np.array(
        [p.std if math.isnan(p.own_std) else p.own_std for p in (known[n] for n in names)]
    )
    rng = np.random.default_rng([config.seed, rung])
    draws = mean + std * rng.standard_normal((_DRAWS, mean.size))
    place = np.argsort(np.argsort(-draws, axis=1), axis=1)
    share = np.mean(place < config.halving_top, axis=0)  # (H1)
    return {**dict.fromkeys(contenders, math.nan), **dict(zip(names, share.tolist()))}


def stopped(
    trajectories: Sequence[Trajectory], contenders: Collection[str], config: RankConfig, rung: int
) -> dict[str, str]:
    """Who is stopped at a rung, and why.

    Args: as for `chances`.

    Returns:
        Name -> message, for the contenders whose chance is below `config.halving_threshold`,
        except the `config.halving_top` with the highest chances: among many equals every chance
        is small.
    """
    found = chances(trajectories, contenders, config, rung)
    order = sorted(found, key=lambda name: (-found[name], name) if found[name] >= 0 else (-2, name))
    safe = order[: config.halving_top]
    best = "the best" if config.halving_top == 1 else f"among the best {config.halving_top}"
    return {
        name: f"stopped by halving after {rung} of {config.epochs} epochs: its chance of being "
        f"{best} is {100 * chance:.1f} %"
        for name, chance in found.items()
        if chance < config.halving_threshold and name not in safe
    }


def check_config(config: RankConfig) -> None:
    """Refuse options that cannot work, before any work is done.

    Raises:
        ConfigError: names the option, its value and what it may be.
    """
    if config.strategy not in STRATEGIES:
        raise errors.ConfigError(*errors.unknown_name("strategy", str(config.strategy), STRATEGIES))
    top, threshold = config.halving_top, config.halving_threshold
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise errors.ConfigError(f"halving_top={top!r}", "Give a whole number of at least 1")
    if not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise errors.ConfigError(
            f"halving_threshold={threshold!r}", "Give a chance between 0 and 1, such as 0.1"
        )
