"""The first epoch at several learning rates; a model continues at the one that suits it.

No constant rate suits all pretrained networks: at 1e-3 those with folded batch norm break, at 3e-4
others have hardly moved after several epochs (docs/results/published-weights.md). Early epochs at
the wrong rate say little about a model, and one epoch suffices to see which rate is wrong.
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

# Tried beside the default rate of Adam, but not for the embedded models: in nearly all of their
# full fine-tunings (experiments/corpus) 1e-3 ends best. A rate that the user chose is kept.
DEFAULT = (3e-4,)
KNOWN_FAMILIES = ("tiny",)

Attempt = Callable[["TrainState"], "tuple[TrainState, EpochRecord]"]


def rates_to_try(spec: ModelSpec, recipe: Recipe) -> tuple[float, ...]:
    """The rates to try: the run's own first, without duplicates."""
    others = recipe.trial_rates
    if others is None:
        standard = Recipe()
        left_as_it_is = (recipe.optimizer, recipe.learning_rate) == (
            standard.optimizer,
            standard.learning_rate,
        )
        others = DEFAULT if left_as_it_is and spec.family not in KNOWN_FAMILIES else ()
    return tuple(dict.fromkeys((recipe.learning_rate, *others)))


def current_rate(train_state: TrainState) -> jax.Array:
    """The learning rate in the optimizer's state; () float32."""
    return train_state.optimizer.hyperparams["learning_rate"]


def with_rate(train_state: TrainState, rate: float) -> TrainState:
    """The same state at another learning rate."""
    state = train_state.optimizer
    # Arithmetic on the old value keeps its dtype and its sharding.
    value = current_rate(train_state) * 0 + rate
    hyperparams = {**state.hyperparams, "learning_rate": value}
    return train_state._replace(optimizer=state._replace(hyperparams=hyperparams))


def chosen_rate(train_state: TrainState, rates: Sequence[float]) -> float | None:
    """Which of the rates the state is at; None if there is only one."""
    if len(rates) < 2:
        return None
    value = float(current_rate(train_state))
    return min(rates, key=lambda rate: abs(rate - value))


def best_attempt(
    train_state: TrainState, rates: Sequence[float], attempt: Attempt
) -> tuple[TrainState, EpochRecord]:
    """The attempt with the lowest validation loss; of equal ones, the earliest.

    Args:
        train_state: from which all attempts start; consumed. Up to three states exist at a time.
        rates: to try, in order.
        attempt: trains one epoch and returns the new state and its record; consumes its argument.
    """
    found: tuple[TrainState, EpochRecord] | None = None
    for rate in rates:
        start = train_state if rate == rates[-1] else jax.tree.map(jnp.array, train_state)
        state, record = attempt(with_rate(start, rate))
        if found is None or _loss(record) < _loss(found[1]):
            found = state, record
    assert found is not None, "no rate to try"
    return found


def _loss(record: EpochRecord) -> float:
    loss = record.validation_loss
    return loss if math.isfinite(loss) else math.inf
