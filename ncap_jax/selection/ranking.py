"""Rank a pool from its trajectories: predicted accuracy, P(best), and who cannot be told apart.

Order. Models that ran to the end come first, by the chosen predictor (higher is better); then
models that a budget stopped, those with more epochs first, then by the predictor: a value after
few epochs cannot be set against one after many. Diverged and failed models, and models for
which the predictor has no answer, come last without a rank.

P(best). Independent normals N(mean, own_std²) per contender are sampled (std where a method does
not split it); P(best) is the share of draws that a model wins. A model is `tied_with_best` when
the chance that it is better than the model ranked first exceeds `TIE_PROBABILITY`.

Contenders are the models that ran to the end, or, where there are none, those that were stopped
after the most epochs. The rest have P(best) NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from ncap_jax import errors
from ncap_jax import predictor as predictors
from ncap_jax.predictor.base import no_prediction
from ncap_jax.predictor.best_seen import best_seen
from ncap_jax.predictor.calibration import calibrated
from ncap_jax.predictor.last_seen import last_seen
from ncap_jax.types import (
    NETWORK_STRENGTHS,
    Prediction,
    RankConfig,
    RankedModel,
    Ranking,
    Strength,
    Trajectory,
)

# Chance of being better than the first model above which a model counts as not told apart: a
# one-sided test at the 5 % level.
TIE_PROBABILITY = 0.05
_DRAWS = 20_000
_RANKABLE = ("ok", "stopped")


def check_config(config: RankConfig) -> None:
    """Refuse what cannot be ranked, before any work is done.

    Raises:
        ConfigError: the predictor is unknown, needs more epochs, or reads a beta_eff that the
            chosen head does not record.
    """
    chosen = predictors.get(config.predictor, config.head)
    chosen.check_epochs(config.epochs)
    if config.head == "linear" and chosen.strength not in (None, *NETWORK_STRENGTHS):
        raise errors.ConfigError(
            f"predictor {chosen.name!r} reads the {chosen.strength} beta_eff, which is not "
            "recorded for whole networks (head='linear')",
            "Use head='probe' or 'trainable_probe', or predictor='last_validation_loss'",
        )


def rank_trajectories(
    trajectories: Sequence[Trajectory],
    dataset: str,
    config: RankConfig | None = None,
    info: Mapping[str, Any] | None = None,
) -> Ranking:
    """Rank models from what their fine-tuning showed.

    Args:
        trajectories: one per model, epoch 0 included; unequal lengths and failures are fine.
        dataset: name of the target data set, for the report.
        config: `predictor` chooses the method; None: defaults, of the head that was recorded.
        info: run facts that the report shows.

    Returns:
        The ranking; deterministic for given trajectories and `config.seed`.

    Raises:
        ConfigError: the predictor is unknown, or models ran to the end and every one of them
            has fewer epochs than the predictor needs.
        ModelError: two trajectories have the same model name.
    """
    if config is None:
        config = RankConfig(head=trajectories[0].head) if trajectories else RankConfig()
    chosen = predictors.get(config.predictor, config.head)
    _check_names(trajectories)
    rankable = [t for t in trajectories if t.status in _RANKABLE and t.epochs >= 1]
    finished = [t.epochs for t in rankable if t.status == "ok"]
    if finished:
        chosen.check_epochs(max(finished))
    predictions = {name: p(rankable) for name, p in predictors.PREDICTORS.items()}
    scores = predictions[chosen.name]
    accuracies = calibrated(chosen, rankable) if chosen.scores_only else scores
    by_name = {
        t.model: _Entry(t, score, accuracy, {name: p[i] for name, p in predictions.items()})
        for i, (t, score, accuracy) in enumerate(zip(rankable, scores, accuracies, strict=True))
    }
    order = _order([e for e in by_name.values() if math.isfinite(e.score.mean)])
    p_best, tied = _contest(order, config.seed)
    # Sums of signed strengths cancel (docs/method.md): the absolute one tells more to a reader.
    strength: Strength = chosen.strength or "absolute"
    ranked = [
        _row(
            e, rank, strength, p_best.get(e.trajectory.model, math.nan), e.trajectory.model in tied
        )
        for rank, e in enumerate(order, start=1)
    ]
    names = {row.name for row in ranked}
    unranked = [
        _row(by_name.get(t.model, _unranked(t)), None, strength, math.nan, False)
        for t in trajectories
        if t.model not in names
    ]
    return Ranking(
        dataset=dataset,
        config=config,
        models=(*ranked, *unranked),
        trajectories=tuple(trajectories),
        predictor=chosen.name,
        strength=strength,
        info=dict(info or {}),
    )


class _Entry(NamedTuple):
    """One model on its way into the ranking."""

    trajectory: Trajectory
    score: Prediction
    accuracy: Prediction
    predictions: Mapping[str, Prediction]


def _unranked(trajectory: Trajectory) -> _Entry:
    nothing = no_prediction(trajectory.message or "no epoch recorded")
    return _Entry(trajectory, nothing, nothing, {})


def _check_names(trajectories: Sequence[Trajectory]) -> None:
    names = [t.model for t in trajectories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.ModelError(
            f"more than one trajectory for {', '.join(twice)}", "Give every model its own name"
        )


def _order(entries: Sequence[_Entry]) -> list[_Entry]:
    """Finished before stopped, more epochs before fewer among the stopped, then the score."""

    def key(entry: _Entry) -> tuple[bool, int, float, str]:
        stopped = entry.trajectory.status == "stopped"
        # The name settles exact ties, so that the order of the input never does.
        return (
            stopped,
            -entry.trajectory.epochs if stopped else 0,
            -entry.score.mean,
            entry.trajectory.model,
        )

    return sorted(entries, key=key)


def _contest(order: Sequence[_Entry], seed: int) -> tuple[dict[str, float], set[str]]:
    """P(best) of the contenders, and the names of those not told apart from the first."""
    if not order:
        return {}, set()
    first = order[0].trajectory
    contenders = [
        e
        for e in order
        if e.trajectory.status == first.status
        and (first.status == "ok" or e.trajectory.epochs == first.epochs)
    ]
    mean = np.array([e.accuracy.mean for e in contenders])
    # What is common to the pool decides nothing between its models.
    std = np.array(
        [
            e.accuracy.std if math.isnan(e.accuracy.own_std) else e.accuracy.own_std
            for e in contenders
        ]
    )
    names = [e.trajectory.model for e in contenders]
    if len(contenders) == 1:
        return {names[0]: 1.0}, set()
    if not np.all(np.isfinite(mean) & np.isfinite(std)):
        # No predictive distribution for somebody: only equal values are known to be tied.
        return {}, {n for n, m in zip(names[1:], mean[1:]) if m == mean[0]}
    rng = np.random.default_rng(seed)
    draws = mean + std * rng.standard_normal((_DRAWS, mean.size))
    wins = np.bincount(np.argmax(draws, axis=1), minlength=mean.size) / _DRAWS
    spread = np.hypot(std, std[0])
    difference = mean - mean[0]
    # P(m > first) for independent normals; two certain, equal values are tied as well.
    better = np.where(
        spread > 0, norm.cdf(difference / np.where(spread > 0, spread, 1)), difference >= 0
    )
    tied = {n for n, p in zip(names[1:], better[1:]) if p > TIE_PROBABILITY}
    return dict(zip(names, wins.tolist())), tied


def _row(
    entry: _Entry, rank: int | None, strength: Strength, p_best: float, tied: bool
) -> RankedModel:
    trajectory = entry.trajectory
    message = trajectory.message
    if trajectory.status == "ok":
        message = "; ".join(filter(None, (message, entry.accuracy.flag or entry.score.flag)))
    return RankedModel(
        name=trajectory.model,
        status=trajectory.status,
        rank=rank,
        predicted_accuracy=entry.accuracy.mean,
        std=entry.accuracy.std,
        best_seen=best_seen(trajectory).mean,
        last_seen=last_seen(trajectory).mean,
        epochs=trajectory.epochs,
        beta_eff=tuple(trajectory.beta_eff(strength).tolist()),
        validation_accuracy=tuple(trajectory.series("validation_accuracy").tolist()),
        seconds=trajectory.seconds,
        message=message,
        p_best=p_best,
        tied_with_best=tied,
        learning_rate=trajectory.records[-1].learning_rate if trajectory.records else None,
        predictions=entry.predictions,
    )
