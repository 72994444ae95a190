"""What a small validation part leaves open: one image decides nothing.

An accuracy of k of m images says of the accuracy p on all images, every p as likely before,

    mean = (k + 1) / (m + 2),   variance = mean (1 − mean) / (m + 3)                       (V1)

(Laplace's rule of succession; the beta posterior). Below `FEW` images a predicted accuracy whose
method knows nothing of the images is drawn in by (V1) with k = m · prediction, and the variance
added.

Calibrated predictions (`ncap_jax.predictor.calibration`) count the luck with the images already, in
their spread, (G3). But the growth law was fitted where images were hundreds, and trusts leads
whole. Below `FEW` accuracies p of m images therefore enter by Laplace's rule, and of a lead x and
of the luck v in it the share is left that is not luck by (G3), an empirical Bayes estimate:

    z = logit((m p + 1) / (m + 2)),   x → ρ x,   v → ρ v,   ρ = S² / s²                    (V3)

Both draw all models in alike, which keeps their order. From `FEW` on predictions stay as they are.
How well the chances and losses that follow hold: experiments/few_images_study.py,
docs/results/few-images.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from ncap_jax.types import Prediction

# With fewer images the standard error of an accuracy exceeds 7 points (at 50 %), more than lies
# between most models of a pool.
FEW = 50
_DRAWN_IN = "so the prediction is drawn towards 50 %"
_COUNTED = "so leads over the other models are trusted less"


def are_few(images: int | None) -> TypeGuard[int]:
    """Whether there are fewer than `FEW`; None or 0: not known, which counts as many."""
    return 0 < (images or 0) < FEW


def by_laplace(accuracies: np.ndarray, images: int) -> np.ndarray:
    """The mean of (V1), shape as given.

    Args:
        accuracies: in [0, 1], of the validation images.
        images: m, how many these are.
    """
    return (images * accuracies + 1) / (images + 2)


def doubt(images: int | None, count: int | None = None) -> str:
    """Why accuracies on so few validation images should not be trusted; empty if they are enough.

    Args:
        images: how many there are; None: unknown.
        count: how many there are, where classes count alike and `images` is how many they are worth
            (`ncap_jax.predictor.validation_score.effective_images`); None: the same.
    """
    if not are_few(images):
        return ""
    error = 100 * math.sqrt(0.25 / images)
    only = f"{images} validation image{'s' if images > 1 else ''} only"
    if count not in (None, images):
        only = f"{count} validation images, worth {images} because classes count alike"
    what = "an accuracy" if count is None else "a score"
    return f"{only}: the standard error of {what} is up to {error:.0f} points"


def drawn_in(prediction: Prediction, images: int | None, count: int | None = None) -> Prediction:
    """A predicted accuracy with what so few images leave open (V1), flagged.

    Args:
        prediction: of an accuracy; one that is not finite is returned as it is. One that states its
            own part of the uncertainty is calibrated and has (V3) already: it is flagged alone.
        images: size of the validation part; None: unknown.
        count: see `doubt`.
    """
    if not are_few(images) or not math.isfinite(prediction.mean):
        return prediction
    reason = doubt(images, count)
    if not math.isnan(prediction.own_std):
        return _flagged(prediction, f"{reason}, {_COUNTED}")
    mean = float(by_laplace(np.asarray(prediction.mean), images))  # (V1)
    share = min(max(mean, 0.0), 1.0)  # a method may predict what no accuracy can be
    error = math.sqrt(share * (1 - share) / (images + 3))
    widened = dataclasses.replace(prediction, mean=mean, std=_added(prediction.std, error))
    return _flagged(widened, f"{reason}, {_DRAWN_IN}")


def _flagged(prediction: Prediction, reason: str) -> Prediction:
    flag = "; ".join(filter(None, (prediction.flag, reason)))
    return dataclasses.replace(prediction, flag=flag)


def _added(std: float, error: float) -> float:
    """Of a method that states no uncertainty, the images' alone."""
    return error if math.isnan(std) else math.hypot(std, error)
