"""The optimizers of a run, as static arguments of a compiled step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from ncap_jax.options import Recipe

SGD_MOMENTUM = 0.9


# Hashable, compared by value; makes the transformation that a step applies.
Optimizer = Callable[[], optax.GradientTransformation]


@dataclass(frozen=True)
class ConstantRate:
    """Adam, or SGD with momentum 0.9, at a constant learning rate.

    The learning rate is a number in the optimizer's state, not a constant of the compiled step:
    optimizers that differ in it alone are equal, and training at another rate is the same program.

    Attributes:
        name: `adam` or `sgd`.
        learning_rate: with which the state starts.
    """

    name: str
    learning_rate: float = field(compare=False)

    def __call__(self) -> optax.GradientTransformation:
        """The transformation."""

        def make(learning_rate: jax.Array) -> optax.GradientTransformation:
            if self.name == "adam":
                return optax.adam(learning_rate)
            return optax.sgd(learning_rate, momentum=SGD_MOMENTUM)

        return optax.inject_hyperparams(make)(learning_rate=self.learning_rate)

    def start(self, params: Any) -> Any:
        """The transformation's state before the first step, made on the host.

        It holds zeros beside the learning rate: `init` would compile a program for every shape.

        Args:
            params: what will be trained.

        Returns:
            What `self().init(params)` returns.
        """
        shapes = jax.eval_shape(self().init, params)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        rate = zeros.hyperparams["learning_rate"] + np.float32(self.learning_rate)
        return zeros._replace(hyperparams={"learning_rate": rate})


def optimizer_of(recipe: Recipe) -> ConstantRate:
    """The optimizer that the options ask for."""
    return ConstantRate(recipe.optimizer, recipe.learning_rate)
