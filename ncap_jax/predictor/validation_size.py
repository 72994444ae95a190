"""What a small validation part leaves open: one image decides nothing.

An accuracy of k of m images says of the accuracy p on all images, every p as likely before,

    mean = (k + 1) / (m + 2),   variance = mean (1 − mean) / (m + 3)                       (V1)

(Laplace's rule of succession; the beta posterior). The growth law counts the luck with the images
in its spread, (G3), but was fitted where they were hundreds. Below `FEW` images a predicted
accuracy is drawn in by (V1) with k = m · prediction, and the variance added. All models are drawn
in alike, which keeps their order. From `FEW` on the predictions stay as they are.
"""

from __future__ import annotations

import dataclasses
import math

from ncap_jax.types import Prediction

# With fewer images the standard error of an accuracy exceeds 7 points (at 50 %), more than lies
# between most models of a pool.
FEW = 50
_CHANGED = "the prediction is drawn towards 50 %"


def doubt(images: int | None, count: int | None = None) -> str:
    """Why accuracies on so few validation images should not be trusted; empty if they are enough.

    Args:
        images: how many there are; None: unknown.
        count: how many there are, where classes count alike and `images` is how many they are worth
            (`ncap_jax.predictor.validation_score.effective_images`); None: the same.
    """
    if not images or images >= FEW:
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
        prediction: of an accuracy; one that is not finite is returned as it is.
        images: size of the validation part; None: unknown.
        count: see `doubt`.
    """
    reason = doubt(images, count)
    if not images or not reason or not math.isfinite(prediction.mean):
        return prediction
    mean = (images * prediction.mean + 1) / (images + 2)  # (V1)
    share = min(max(mean, 0.0), 1.0)  # a method may predict what no accuracy can be
    error = math.sqrt(share * (1 - share) / (images + 3))
    return dataclasses.replace(
        prediction,
        mean=mean,
        std=_added(prediction.std, error),
        own_std=_added(prediction.spread, error),
        flag="; ".join(filter(None, (prediction.flag, f"{reason}, so {_CHANGED}"))),
    )


def _added(std: float, error: float) -> float:
    """Of a method that states no uncertainty, the images' alone."""
    return error if math.isnan(std) else math.hypot(std, error)
