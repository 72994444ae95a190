"""Runs whose accuracies follow a given curve."""

from __future__ import annotations

from scipy.special import expit

from ncap_jax.options import Head
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory


def run(
    z,
    head: Head = "linear",
    images: int | None = None,
    epoch_steps: int | None = None,
    gap: float = 1.0,
) -> Trajectory:
    """A run with these logits of accuracy; images that validate and steps where they are known.

    The share ρ of the validation loss that training images do not have is `gap` after every epoch.
    """
    counts = None if images is None else ClassCounts((images,), ((0,),), ((0,),))
    records = (
        EpochRecord(
            k,
            *(1.0 - gap, a, 1.0, a),
            validation_counts=counts,
            steps=None if epoch_steps is None else k * epoch_steps,
        )
        for k, a in enumerate(expit(z).tolist())
    )
    return Trajectory("a", head, tuple(records))
