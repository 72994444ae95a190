"""The optimizers are optax's own, at a rate that is a number in their state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ncap_jax.finetune.optimizers import ConstantRate, optimizer_of
from ncap_jax.options import Recipe

EXPECTED = {"adam": optax.adam(0.02), "sgd": optax.sgd(0.02, momentum=0.9)}


def moved(transformation, state=None):
    """A parameter after three steps along known gradients, and the state."""
    value = jnp.asarray([1.0, -2.0, 0.5])
    state = transformation.init(value) if state is None else state
    for number in range(3):
        updates, state = transformation.update(jnp.cos(value + number), state, value)
        value = optax.apply_updates(value, updates)
    return np.asarray(value), state


@pytest.mark.parametrize("name", EXPECTED)
def test_steps_are_optax_s(name):
    found, state = moved(optimizer_of(Recipe(optimizer=name, learning_rate=0.02))())
    np.testing.assert_allclose(found, moved(EXPECTED[name])[0], rtol=1e-6)
    assert state.hyperparams["learning_rate"] == np.float32(0.02)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rate_of_the_state_counts(name):
    """One transformation serves every rate: what it was made with is only where it starts."""
    other, expected = (ConstantRate(name, rate)() for rate in (0.5, 0.02))
    state = expected.init(jnp.zeros(3))
    np.testing.assert_allclose(moved(other, state)[0], moved(EXPECTED[name])[0], rtol=1e-6)


def test_optimizers_that_differ_in_the_rate_are_equal():
    one, other = (optimizer_of(Recipe(learning_rate=rate)) for rate in (1e-3, 1e-2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != optimizer_of(Recipe(optimizer="sgd"))
    structures = [jax.tree.structure(each().init(jnp.zeros(3))) for each in (one, other)]
    assert structures[0] == structures[1]
