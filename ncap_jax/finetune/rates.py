"""The first epoch at several learning rates; a model goes on at the one that suits it.

No constant rate suits all pretrained networks: at 1e-3 those with folded batch norm break, at 3e-4
others have hardly moved after some epochs (docs/results.md, "Published weights"). What early epochs
at the wrong rate say of a model is worth little, and after one epoch it is plain which is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ncap_jax.finetune.steps import TrainState
from ncap_jax.types import EpochRecord, ModelSpec, RankConfig

# Beside the default rate of Adam. The embedded models are known: in nearly all of their full
# fine-tunings (experiments/corpus) 1e-3 ends best. A rate that somebody chose is used as it is.
DEFAULT = (3e-4,)
KNOWN_FAMILIES = ("tiny",)

Attempt = Callable[[TrainState], tuple[TrainState, EpochRecord | None]]


def of(spec: ModelSpec, config: RankConfig) -> tuple[float, ...]:
    """The rates to try: the run's own first, no rate twice."""
    others = config.trial_rates
    if others is None:
        standard = RankConfig()
        left_as_it_is = (config.optimizer, config.learning_rate) == (
            standard.optimizer,
            standard.learning_rate,
        )
        others = DEFAULT if left_as_it_is and spec.family not in KNOWN_FAMILIES else ()
    return tuple(dict.fromkeys((config.learning_rate, *others)))


def current(train_state: TrainState) -> jax.Array:
    """The learning rate in the optimizer's state; () float32."""
    return train_state.optimizer.hyperparams["learning_rate"]


def with_rate(train_state: TrainState, rate: float) -> TrainState:
    """The same state at another learning rate."""
    state = train_state.optimizer
    # Arithmetic on the old value keeps its type and its place on the mesh.
    value = current(train_state) * 0 + rate
    hyperparams = {**state.hyperparams, "learning_rate": value}
    return train_state._replace(optimizer=state._replace(hyperparams=hyperparams))


def chosen(train_state: TrainState, rates: Sequence[float]) -> float | None:
    """Which of the rates the state is at; None where there was no choice."""
    if len(rates) < 2:
        return None
    value = float(current(train_state))
    return min(rates, key=lambda rate: abs(rate - value))


def best(
    train_state: TrainState, rates: Sequence[float], attempt: Attempt
) -> tuple[TrainState, EpochRecord]:
    """The attempt with the lowest validation loss; of equals, the earlier rate's.

    Args:
        train_state: where all attempts start; consumed. Up to three states are held at a time.
        rates: to try, in order.
        attempt: an epoch of training and its record; consumes the state that it is given.
    """
    found: tuple[TrainState, EpochRecord] | None = None
    for rate in rates:
        start = train_state if rate == rates[-1] else jax.tree.map(jnp.array, train_state)
        state, record = attempt(with_rate(start, rate))
        assert record is not None, "an attempt is judged by its record"
        if found is None or _loss(record) < _loss(found[1]):
            found = state, record
    assert found is not None, "no rate to try"
    return found


def _loss(record: EpochRecord) -> float:
    loss = record.validation_loss
    return loss if math.isfinite(loss) else math.inf
