"""After which epochs beta_eff is measured, and on how many samples of a whole network.

A probe's beta_eff costs hardly anything and is measured after every epoch. That of a whole network
has a program of its own, whose compilation takes as long as a fifth of a short run. So with
`beta_eff="auto"` it is measured after every epoch only where that takes at most `SHARE` of a first
run of `USUAL_EPOCHS`. Elsewhere it is measured once, after the last epoch, in the strength that
reports show: before any training it follows the width of the features, not the worth of the model
(docs/results/published-weights.md), and a model that a race stops early needs no program for it.
What is chosen does not depend on the run's own number of epochs, which may grow.

Prices are counted in training steps of 32 samples and follow from the options and the number of
samples. No clock decides: the same configuration gives the same records on every machine. The
constants are round figures of embedded models on a CPU, from `python -m benchmarks.compile_effort`
(docs/results/compile-effort.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ncap_jax.ops.effort import Effort, effort_for
from ncap_jax.options import USUAL_EPOCHS, Recipe
from ncap_jax.types import NETWORK_STRENGTHS, Strength

# A fortieth of the samples, in two strengths, takes less than a tenth of an epoch once compiled.
# Below a batch of 32 a mean over samples says nothing.
NETWORK_SHARE = 40
NETWORK_MINIMUM = 32
NETWORK_BATCH = 64

SHARE = 0.1
# Samples in the step that prices are counted in.
UNIT = 32
# To trace and compile the whole network's beta_eff, and to run it on `UNIT` samples.
COMPILING: Mapping[Effort, float] = {"least": 75, "some": 300, "full": 400}
RUNNING: Mapping[Effort, float] = {"least": 10, "some": 3, "full": 2.5}
# To build a model, trace and compile its training and evaluation; a unit of training and what is
# evaluated with it.
START, TRAINING = 300, 1.3


def measured_epochs(recipe: Recipe, num_train: int) -> frozenset[int]:
    """The epochs after which beta_eff is measured; 0 is before training.

    Args:
        recipe: `beta_eff`, `head`, `epochs` and `measure_size` decide.
        num_train: samples of the training part.
    """
    if recipe.beta_eff == "off":
        return frozenset()
    every = frozenset(range(recipe.epochs + 1))
    return every if _after_every_epoch(recipe, num_train) else frozenset({recipe.epochs})


def _after_every_epoch(recipe: Recipe, num_train: int) -> bool:
    """Whether more is measured than the end, where anything is."""
    if recipe.beta_eff == "every_epoch" or recipe.head != "linear":
        return True
    samples = network_samples(num_train, recipe.measure_size)
    run = START + TRAINING * USUAL_EPOCHS * num_train / UNIT
    return price(USUAL_EPOCHS + 1, samples) <= SHARE * run


def network_strengths(recipe: Recipe, num_train: int) -> tuple[Strength, ...]:
    """In which strengths a whole network is measured: each takes as long as the first."""
    return NETWORK_STRENGTHS if _after_every_epoch(recipe, num_train) else NETWORK_STRENGTHS[:1]


def usual_measurements(recipe: Recipe, num_train: int) -> int:
    """How often a run of `USUAL_EPOCHS` would measure what this run does; 0: never.

    By this number, which does not grow with the run, programs are compiled.
    """
    if recipe.beta_eff == "off":
        return 0
    return USUAL_EPOCHS + 1 if _after_every_epoch(recipe, num_train) else 1


def network_samples(num_train: int, measure_size: int) -> int:
    """How many training samples measure a whole network."""
    return min(num_train, measure_size, max(NETWORK_MINIMUM, num_train // NETWORK_SHARE))


def network_runs(measurements: int, samples: int) -> int:
    """How often a whole network's program runs on `UNIT` samples, the last batch being padded."""
    batch = min(NETWORK_BATCH, samples)
    return math.ceil(measurements * math.ceil(samples / batch) * batch / UNIT)


def price(measurements: int, samples: int) -> float:
    """Training steps that whole-network measurements take in a first run.

    Args:
        measurements: how many.
        samples: in each.
    """
    runs = network_runs(measurements, samples)
    effort = effort_for(runs)
    return COMPILING[effort] + RUNNING[effort] * runs
