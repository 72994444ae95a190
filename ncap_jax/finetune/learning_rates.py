"""Which learning rate suits a model: as is known from other data, else by a trial epoch at each.

No constant rate suits all pretrained networks: at 1e-3 those with folded batch norm break, at 3e-4
others have hardly moved after several epochs (docs/results/published-weights.md). Early epochs at
the wrong rate say little about a model. Which rate is right is the model's own: the one that was
better on other data sets is right more often than the one with the lower loss after an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ncap_jax.options import Recipe
from ncap_jax.types import EpochRecord, ModelSpec

if TYPE_CHECKING:
    from ncap_jax.finetune.steps import TrainState

# Tried beside the default rate of Adam where the model's own is not known. A rate that the user
# chose is kept.
DEFAULT = (3e-4,)
# Model -> the better of 1e-3 and 3e-4 in full fine-tunings with pretrained weights, as
# `experiments.published_study` finds it; all embedded models end best at 1e-3.
KNOWN = {
    "cifar_resnet20": 1e-3,
    "cifar_resnet32": 1e-3,
    "mobilenet_025": 1e-3,
    "mobilenet_075": 1e-3,
    "mobilenet_12blocks": 1e-3,
    "mobilenetv2": 1e-3,
    "mobilenet_025_folded": 3e-4,
    "mobilenet_050_folded": 3e-4,
    "mobilenet_075_folded": 3e-4,
    "mobilenet_folded": 3e-4,
    "mobilenetv2_folded": 3e-4,
    "mobilenetv2_folded_birds": 3e-4,
    "mobilenetv2_folded_insects": 3e-4,
    "squeezenet": 3e-4,
}
KNOWN_FAMILY, KNOWN_RATE = "tiny", 1e-3

# States of one model, on every split of the data.
States = tuple["TrainState", ...]
Attempt = Callable[[States], tuple[States, EpochRecord]]


def rates_to_try(spec: ModelSpec, recipe: Recipe) -> tuple[float, ...]:
    """The rates to try: the run's own first, without duplicates; or the one that is known."""
    if recipe.trial_rates is not None:
        return tuple(dict.fromkeys((recipe.learning_rate, *recipe.trial_rates)))
    standard = Recipe()
    chosen = recipe.optimizer, recipe.learning_rate
    if chosen != (standard.optimizer, standard.learning_rate):
        return (recipe.learning_rate,)
    known = known_rate(spec, recipe)
    return (recipe.learning_rate, *DEFAULT) if known is None else (known,)


def known_rate(spec: ModelSpec, recipe: Recipe) -> float | None:
    """The rate that suited a model's pretrained weights on other data; None: not known."""
    if "random" in (recipe.weights, spec.weights):
        return None
    return KNOWN_RATE if spec.family == KNOWN_FAMILY else KNOWN.get(spec.name)


def current_rate(train_state: TrainState) -> jax.Array:
    """The learning rate in the optimizer's state; () float32."""
    return train_state.optimizer.hyperparams["learning_rate"]


def with_rate(train_state: TrainState, rate: float | jax.Array) -> TrainState:
    """The same state at another learning rate."""
    state = train_state.optimizer
    # Arithmetic on the old value keeps its dtype and its sharding.
    value = current_rate(train_state) * 0 + rate
    hyperparams = {**state.hyperparams, "learning_rate": value}
    return train_state._replace(optimizer=state._replace(hyperparams=hyperparams))


def chosen_rate(train_state: TrainState, rates: Sequence[float], recipe: Recipe) -> float | None:
    """Which of the rates the state is at; None if there is only the run's own."""
    if tuple(rates) == (recipe.learning_rate,):
        return None
    value = float(current_rate(train_state))
    return min(rates, key=lambda rate: abs(rate - value))


def best_attempt(
    states: States, rates: Sequence[float], attempt: Attempt
) -> tuple[States, EpochRecord]:
    """The attempt with the lowest validation loss; of equal ones, the earliest.

    Args:
        states: from which all attempts start; consumed. Up to three of each exist at a time.
        rates: to try, in order.
        attempt: trains one epoch and returns the new states and their record; consumes its
            argument.
    """
    found: tuple[States, EpochRecord] | None = None
    for rate in rates:
        start = states if rate == rates[-1] else jax.tree.map(jnp.array, states)
        now, record = attempt(tuple(with_rate(state, rate) for state in start))
        if found is None or _loss(record) < _loss(found[1]):
            found = now, record
    assert found is not None, "no rate to try"
    return found


def _loss(record: EpochRecord) -> float:
    loss = record.validation_loss
    return loss if math.isfinite(loss) else math.inf
