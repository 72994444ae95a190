"""Predicted accuracies of models that ended after different numbers of epochs, on one scale.

What a method predicts after e epochs and after n of them differs for the whole pool: its level is
better known, and leads have shrunk. So a model m that ended after e epochs, before the others did
after n, is judged as it was then, in the pool as it was then, and moved with those that went on:

    mean_m = p_m(e) + average over j that reached n of  p_j(n) − p_j(e)                       (A1)

with p_j(e) the predicted accuracy of model j after e epochs. Its deviation stays that of e epochs.

The models that went on are predicted from their own pool, if they are `ENOUGH`: how far apart
models are that were stopped after an epoch says little about them. But they were chosen for being
ahead, and are more alike than their ends will be. How much the choice narrowed them is seen after
the last epoch e that all have: S² of (G3) is multiplied by

    N = variance of all z_e / variance of the z_e of those that went on, 1 to `NARROWEST`    (A2)

with z the logits of accuracy. How well the chances and losses that follow hold after a race:
experiments/race_study.py, docs/results/race.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ncap_jax.predictor import calibration, growth
from ncap_jax.predictor.base import Predictor, truncate
from ncap_jax.types import Prediction, Trajectory

# Models of the greatest length that make a pool of their own.
ENOUGH = 3
# Limit of (A2): three models may agree by chance.
NARROWEST = 10.0


def accuracies(
    predictor: Predictor,
    trajectories: Sequence[Trajectory],
    priors: growth.Priors = growth.PRIORS,
    images: int | None = None,
) -> list[Prediction]:
    """Predicted accuracies, comparable with one another.

    Args:
        predictor: the method.
        trajectories: of one head, each with an epoch of training at least.
        priors: what finished runs say of growth, by head.
        images: how many the validation part is worth; None: as many as the records count.

    Returns:
        One per trajectory; of those that ended early as (A1) says, of the longest as
        `ncap_jax.predictor.accuracies` gives them in their own pool, or, of fewer than `ENOUGH`, in
        the whole one.
    """
    lengths = sorted({t.epochs for t in trajectories})
    longest = [t for t in trajectories if t.epochs == lengths[-1]]
    pool = longest if len(longest) >= ENOUGH else trajectories
    narrowed = narrowing(trajectories, pool)
    answers = calibration.accuracies(
        predictor, pool, priors=priors, images=images, narrowed=narrowed
    )
    by_name = {t.model: answer for t, answer in zip(pool, answers, strict=True)}
    ends = {t.model: by_name[t.model] for t in longest}
    for epochs in lengths[:-1]:
        pool = [truncate(t, epochs) for t in trajectories if t.epochs >= epochs]
        answers = calibration.accuracies(predictor, pool, priors=priors, images=images)
        then = {t.model: answer for t, answer in zip(pool, answers, strict=True)}
        moved = _moved(then, ends)
        for name in (t.model for t in trajectories if t.epochs == epochs):
            by_name[name] = dataclasses.replace(then[name], mean=then[name].mean + moved)
    return [by_name[t.model] for t in trajectories]


def narrowing(all_of_them: Sequence[Trajectory], chosen: Sequence[Trajectory]) -> float:
    """N of (A2); 1 where all were chosen, or where nobody can tell.

    Args:
        all_of_them: each with an epoch of training at least.
        chosen: those of them that went on.
    """
    common = min((t.epochs for t in all_of_them), default=0)
    variances = []
    for group in (all_of_them, chosen):
        seen = np.array([t.series("validation_accuracy")[common] for t in group])
        logits = growth.clipped_logit(seen[np.isfinite(seen)])
        variances.append(float(np.var(logits)) if logits.size > 1 else 0.0)
    whole, part = variances
    return float(np.clip(whole / part, 1.0, NARROWEST)) if part else 1.0


def _moved(then: Mapping[str, Prediction], ends: Mapping[str, Prediction]) -> float:
    """How far the predictions of those that went on have moved since; 0 where nobody can tell."""
    moves = [prediction.mean - then[model].mean for model, prediction in ends.items()]
    finite = [move for move in moves if math.isfinite(move)]
    return float(np.mean(finite)) if finite else 0.0
