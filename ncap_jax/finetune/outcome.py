"""How a fine-tuning has ended, from what was recorded of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ncap_jax.options import Recipe
from ncap_jax.types import EpochRecord, Status


def end(records: Sequence[EpochRecord], recipe: Recipe) -> tuple[Status, str]:
    """How a fine-tuning with these records has ended: its status, and a message for people.

    The status is `ok`, `diverged` if a loss or a feature stopped being finite, or `stopped` if it
    pauses. The message says so where the features tell no image from another.

    Args:
        records: from epoch 0 on, at least one.
        recipe: says how many epochs there are.
    """
    last = records[-1]
    if not is_finite(last):
        what = "features are" if losses_are_finite(last) else "loss is"
        return "diverged", divergence(last.epoch, recipe, what)
    message = sameness(last.epoch) if last.features == "constant" else ""
    return "ok" if last.epoch == recipe.epochs else "stopped", message


def divergence(epoch: int, recipe: Recipe, what: str = "loss is") -> str:
    """The message for a loss or features that are not finite after `epoch`, with what may help."""
    said = f"the {what} not finite after epoch {epoch}"
    if epoch:  # training did it
        return f"{said}; a smaller learning_rate may help"
    if recipe.dtype == "bfloat16":
        return f'{said}, before any training; try dtype="float32"'
    return f"{said}, before any training: its weights do not fit its preprocessing, or are damaged"


def sameness(epoch: int) -> str:
    """The message for features that are the same for all images after `epoch`."""
    return (
        f"its features are the same for all images after epoch {epoch}: its weights may be "
        "damaged, or its preprocessing wrong"
    )


def losses_are_finite(record: EpochRecord) -> bool:
    """Whether all losses of a record are finite."""
    losses = [record.train_loss, record.validation_loss]
    if record.running_loss is not None:
        losses.append(record.running_loss)
    return all(math.isfinite(loss) for loss in losses)


def is_finite(record: EpochRecord) -> bool:
    """Whether losses and features are finite; if not, the model has diverged."""
    return record.features != "not finite" and losses_are_finite(record)
