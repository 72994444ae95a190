"""With how many models a race within a time budget will begin, foretold from those that have.

Small models come first, and larger ones take longer. A model of p parameters is expected to take

    F = f p^0.2 seconds to its first epoch,   E = e p^0.35 seconds for a further one        (H5)

with f and e the means over the models that have an epoch, of which the first counts twice: the
second smallest is often as quick, and the others are not. A race of M models takes its time by (H4)
of `ncap_jax.selection.race`, with the mean of E for all of them.

Parameters tell little of what a model takes: over 41 models of three sets their logarithms
correlate with those of F at 0.40 and of E at 0.6. But without them a list that begins with its
smallest model seems shorter than it is. The powers, and how far the forecast was off:
experiments/long_list_study.py, docs/results/long-lists.md.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Of the number of parameters.
FIRST_POWER, EPOCH_POWER = 0.2, 0.35
# How many models the first one counts as.
FIRST_COUNTS = 2


class Taken(NamedTuple):
    """What a model of some parameters took, in seconds."""

    parameters: float
    seconds: float


def sizes(parameters: Sequence[int | None]) -> list[float]:
    """Numbers of parameters; one that is not known is taken for the largest known, or for 1."""
    largest = max((number for number in parameters if number), default=1)
    return [float(number or largest) for number in parameters]


def beginning(
    left: float,
    firsts: Sequence[Taken],
    epochs: Sequence[Taken],
    waiting: Sequence[float],
    later_epochs: Callable[[int], int],
) -> int:
    """The most of the waiting models that a race can begin with besides those that have (H4).

    Args:
        left: seconds for all that is still trained, those of all workers added up.
        firsts: what models took to their first epoch, at least one; of the first of them what the
            next are expected to take.
        epochs: what a further epoch of each of these takes.
        waiting: parameters of the models without an epoch, in the order of their turns.
        later_epochs: number of models -> what a race of them trains after their first epochs.
    """
    first, epoch = _scale(firsts, FIRST_POWER), _scale(epochs, EPOCH_POWER)
    raced = [each.parameters for each in epochs]
    spent, most = 0.0, 0
    for more, parameters in enumerate(waiting, start=1):
        raced.append(parameters)
        spent += first * parameters**FIRST_POWER
        each = epoch * statistics.fmean(number**EPOCH_POWER for number in raced)
        if spent + each * later_epochs(len(raced)) > left:
            break
        most = more
    return most


def _scale(taken: Sequence[Taken], power: float) -> float:
    """The factor of (H5)."""
    first, *others = (each.seconds / each.parameters**power for each in taken)
    return statistics.fmean([*itertools.repeat(first, FIRST_COUNTS), *others])
