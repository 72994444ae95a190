"""Rank a pool from its trajectories: predicted accuracy, P(best), and who cannot be told apart.

Order. Models that ran to the end come first, by the chosen predictor (higher is better). Then come
models that a budget stopped, those with more epochs first, then by the predictor: a value after
few epochs cannot be compared with one after many. Diverged and failed models, and models for
which the predictor has no answer, come last, without a rank.

P(best), P(within), ties and the shortlist compare the contenders (`ncap_jax.selection.contest`,
`ncap_jax.selection.shortlist`): the models that ran to the end or, where there are none, those that
were stopped after the most epochs. Of the other models they are not known: a spread as wide as that
of an early epoch would make chances of what nobody knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ncap_jax import errors
from ncap_jax import predictor as predictors
from ncap_jax.options import RankConfig, Recipe
from ncap_jax.predictor import common_scale
from ncap_jax.predictor.base import Predictor, no_prediction
from ncap_jax.predictor.best_seen import best_seen
from ncap_jax.predictor.last_seen import last_seen
from ncap_jax.predictor.validation_score import as_scored, counted_images, effective_images
from ncap_jax.predictor.validation_size import drawn_in
from ncap_jax.selection import contest, shortlist
from ncap_jax.types import (
    NETWORK_STRENGTHS,
    Prediction,
    RankedModel,
    Ranking,
    RunInfo,
    Strength,
    Trajectory,
)

_RANKABLE = ("ok", "stopped")


def check_config(recipe: Recipe) -> None:
    """Refuse a recipe whose runs could not be ranked, before any work is done.

    Raises:
        ConfigError: the predictor is unknown, needs more epochs, or reads a beta_eff that is
            switched off or that the chosen head does not record.
    """
    chosen = predictors.get(recipe.predictor, recipe.head)
    chosen.check_epochs(recipe.epochs)
    if recipe.beta_eff == "off" and chosen.strength is not None:
        raise errors.ConfigError(
            f"predictor {chosen.name!r} reads the {chosen.strength} beta_eff, which is not "
            "measured with beta_eff='off'",
            "Use beta_eff='auto', or predictor='last_validation_loss'",
        )
    if recipe.head == "linear" and chosen.strength not in (None, *NETWORK_STRENGTHS):
        raise errors.ConfigError(
            f"predictor {chosen.name!r} reads the {chosen.strength} beta_eff, which is not "
            "recorded for whole networks (head='linear')",
            "Use head='probe' or 'trainable_probe', or predictor='last_validation_loss'",
        )


def with_needed_beta_eff(config: RankConfig) -> RankConfig:
    """The configuration with beta_eff measured after every epoch if the ranking is made of it."""
    needs_it = predictors.get(config.predictor, config.head).strength is not None
    return dataclasses.replace(config, beta_eff="every_epoch") if needs_it else config


def check_epochs_budget(config: RankConfig, models: int) -> None:
    """Refuse an epochs budget that cannot suffice, before any work is done.

    Args:
        config: `epochs_budget`; `predictor` and `head` decide how many epochs are needed.
        models: how many there are.

    Raises:
        ConfigError: the budget does not suffice for the epochs that the predictor needs of every
            model.
    """
    needed = predictors.get(config.predictor, config.head).min_epochs
    if config.epochs_budget is not None and config.epochs_budget < needed * models:
        raise errors.ConfigError(
            f"epochs_budget={config.epochs_budget} does not suffice for {models} models: the "
            f"predictor needs {needed} epoch(s) of each",
            f"Give at least {needed * models}, or fewer models",
        )


def rank_trajectories(
    trajectories: Sequence[Trajectory],
    dataset: str,
    config: RankConfig | None = None,
    info: RunInfo | Mapping[str, Any] | None = None,
) -> Ranking:
    """Rank models from what their fine-tuning showed.

    Args:
        trajectories: one per model, epoch 0 included; unequal lengths and failures are fine.
        dataset: name of the target data set, for the report.
        config: `predictor` chooses the method, `metric` what is predicted; None: defaults, for the
            head that was recorded.
        info: facts of the run for the report, or a mapping with fields of `ncap_jax.types.RunInfo`.
            `num_validation` widens predictions where it is small
            (`ncap_jax.predictor.validation_size`), and `seen` flags models.

    Returns:
        The ranking; deterministic for given trajectories and `config.seed`.

    Raises:
        ConfigError: the predictor is unknown, models ran to the end and every one of them has
            fewer epochs than the predictor needs, or `info` has an unknown key.
        DataError: `metric` needs answers by class, which a trajectory was recorded without.
        ModelError: two trajectories have the same model name.
    """
    if config is None:
        config = RankConfig(head=trajectories[0].head) if trajectories else RankConfig()
    chosen = predictors.get(config.predictor, config.head)
    _check_names(trajectories)
    facts = run_info(info)
    scored = as_scored(trajectories, config.metric)
    entries = _entries(scored, chosen, _size(trajectories, config, facts))
    order = _order(entries)
    standings, expected_regret = _standings(order, config)
    # Sums of signed strengths cancel (docs/method.md): the absolute one tells a reader more.
    strength: Strength = chosen.strength or "absolute"
    place = partial(_row, strength=strength, seen=facts.seen)
    ranked = [
        place(entry, rank=rank, standing=standings.get(entry.trajectory.model, _UNKNOWN))
        for rank, entry in enumerate(order, start=1)
    ]
    names = {row.name for row in ranked}
    unranked = [
        place(e, rank=None, standing=_UNKNOWN) for e in entries if e.trajectory.model not in names
    ]
    accuracies = {t.model: tuple(t.series("validation_accuracy").tolist()) for t in trajectories}
    return Ranking(
        dataset=dataset,
        config=config,
        models=tuple(
            dataclasses.replace(row, validation_accuracy=accuracies[row.name])
            for row in (*ranked, *unranked)
        ),
        trajectories=tuple(trajectories),
        predictor=chosen.name,
        strength=strength,
        info=facts,
        expected_regret=expected_regret,
    )


def run_info(info: RunInfo | Mapping[str, Any] | None) -> RunInfo:
    """Facts of a run as the record.

    Raises:
        ConfigError: a mapping has a key that is not a field of the record.
    """
    if isinstance(info, RunInfo):
        return info
    given = dict(info or {})
    known = [field.name for field in dataclasses.fields(RunInfo)]
    for key in given:
        if key not in known:
            raise errors.ConfigError(*errors.unknown_name("key of info", str(key), known))
    if given.get("class_names") is not None:
        given["class_names"] = tuple(given["class_names"])
    return RunInfo(**given)


class _Size(NamedTuple):
    """How many validation images there are, and how many they are worth, where that is known."""

    worth: int | None
    images: int | None = None


def _size(trajectories: Sequence[Trajectory], config: RankConfig, facts: RunInfo) -> _Size:
    """The size of the validation part, as the metric sees it."""
    images = counted_images(trajectories)
    if config.metric == "accuracy" or facts.num_validation is None or not images:
        return _Size(facts.num_validation)
    return _Size(effective_images(images, config.metric), facts.num_validation)


class _Entry(NamedTuple):
    """One model on its way into the ranking: what the chosen method and all methods say of it."""

    trajectory: Trajectory
    score: Prediction
    accuracy: Prediction
    predictions: Mapping[str, Prediction]


def _check_names(trajectories: Sequence[Trajectory]) -> None:
    names = [t.model for t in trajectories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.ModelError(
            f"more than one trajectory for {', '.join(twice)}", "Give every model its own name"
        )


def _entries(
    trajectories: Sequence[Trajectory], chosen: Predictor, validation: _Size
) -> list[_Entry]:
    """One per trajectory, in order; those that failed have no predictions.

    Raises:
        ConfigError: models ran to the end and all of them are too short for the chosen method.
    """
    rankable = [t for t in trajectories if t.status in _RANKABLE and t.epochs >= 1]
    finished = [t.epochs for t in rankable if t.status == "ok"]
    if finished:
        chosen.check_epochs(max(finished))
    answers = {name: method(rankable) for name, method in predictors.PREDICTORS.items()}
    scores = answers[chosen.name]
    predicted = common_scale.accuracies(chosen, rankable, images=validation.worth)
    accuracies = [drawn_in(p, *validation) for p in predicted]
    found = {
        t.model: _Entry(t, scores[i], accuracies[i], {name: p[i] for name, p in answers.items()})
        for i, t in enumerate(rankable)
    }
    return [found.get(t.model) or _without_predictions(t) for t in trajectories]


def _without_predictions(trajectory: Trajectory) -> _Entry:
    nothing = no_prediction(trajectory.message or "no epoch recorded")
    return _Entry(trajectory, nothing, nothing, {})


def _order(entries: Sequence[_Entry]) -> list[_Entry]:
    """Those with a score: finished before stopped, then more epochs, then the score."""

    def key(entry: _Entry) -> tuple[bool, int, float, str]:
        stopped = entry.trajectory.status == "stopped"
        # The name settles exact ties, so that the order of the input never does.
        return (
            stopped,
            -entry.trajectory.epochs if stopped else 0,
            -entry.score.mean,
            entry.trajectory.model,
        )

    return sorted((e for e in entries if math.isfinite(e.score.mean)), key=key)


def names_in_order(trajectories: Sequence[Trajectory], config: RankConfig) -> tuple[str, ...]:
    """The models that `rank_trajectories` ranks, in its order, by the chosen method alone."""
    chosen = predictors.get(config.predictor, config.head)
    rankable = [t for t in trajectories if t.status in _RANKABLE and t.epochs >= 1]
    rankable = list(as_scored(rankable, config.metric))
    scores = chosen(rankable)
    entries = [_Entry(t, score, score, {}) for t, score in zip(rankable, scores, strict=True)]
    return tuple(entry.trajectory.model for entry in _order(entries))


class _Standing(NamedTuple):
    """How a model stands against the others."""

    p_best: float = math.nan
    p_within: float = math.nan
    shortlisted: bool = False
    tied_with_best: bool = False


_UNKNOWN = _Standing()


def _standings(order: Sequence[_Entry], config: RankConfig) -> tuple[dict[str, _Standing], float]:
    """By name, how models stand; and what the choice of the first is expected to cost, points."""
    contenders = _contenders(order)
    names = [e.trajectory.model for e in contenders]
    if len(contenders) == 1:
        if len(order) > 1:  # the others were stopped before it: against whom would it be likely?
            return {names[0]: _UNKNOWN}, math.nan
        return {names[0]: _Standing(1.0, 1.0, True)}, 0.0
    predictions = [e.accuracy for e in contenders]
    tied = contest.tied_with_first(predictions)
    if not contenders or not all(map(contest.has_distribution, predictions)):
        found = [_Standing(tied_with_best=each) for each in tied]
        return dict(zip(names, found, strict=True)), math.nan
    p_best = contest.chances(predictions, 1, config.seed).tolist()
    points = shortlist.outlook(predictions, config.shortlist_points, config.seed)
    listed = [i in points.shortlist for i in range(len(names))]
    rows = zip(p_best, points.within.tolist(), listed, tied, strict=True)
    return dict(zip(names, (_Standing(*row) for row in rows), strict=True)), points.expected_regret


def _contenders(order: Sequence[_Entry]) -> list[_Entry]:
    """The models that ran to the end or, without any, those with the most epochs."""
    if not order:
        return []
    first = order[0].trajectory
    return [
        e
        for e in order
        if e.trajectory.status == first.status
        and (first.status == "ok" or e.trajectory.epochs == first.epochs)
    ]


def _row(
    entry: _Entry,
    *,
    rank: int | None,
    standing: _Standing,
    strength: Strength,
    seen: Mapping[str, str],
) -> RankedModel:
    trajectory = entry.trajectory
    message = trajectory.message
    if trajectory.status == "ok":
        flag = entry.accuracy.flag or entry.score.flag
        message = "; ".join(filter(None, (message, seen.get(trajectory.model), flag)))
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
        validation_accuracy=(),  # of the trajectory as it was recorded, not as it is scored
        seconds=trajectory.seconds,
        message=message,
        p_best=standing.p_best,
        tied_with_best=standing.tied_with_best,
        p_within=standing.p_within,
        shortlisted=standing.shortlisted,
        learning_rate=trajectory.records[-1].learning_rate if trajectory.records else None,
        predictions=entry.predictions,
    )
