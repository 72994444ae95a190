"""Linear probe: cross-validated accuracy of logistic regression on frozen features.

Features are standardised on the training folds; the multinomial regression minimises

    (1/n) Σ_i −log softmax(W x_i + b)_{y_i} + ‖W‖² / (2 C n)                                (W1)

over the training folds by L-BFGS. The score is the share of samples that are classified correctly
while their fold is left out. Folds are stratified and fixed: sample j of a class is in
fold j mod F.

Source: Alain & Bengio, "Understanding intermediate layers using linear classifier probes", 2016;
the optimiser is optax's L-BFGS.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ncap_jax import errors
from ncap_jax.predictor.features import Score, check, evaluate

FOLDS = 5
# Inverse strength of the penalty, as in scikit-learn's LogisticRegression.
INVERSE_PENALTY = 1.0
_MAX_ITERATIONS = 300
_GRADIENT_TOLERANCE = 1e-5


class Weights(NamedTuple):
    """W (d, K) and b (K,) of (W1)."""

    kernel: jax.Array
    bias: jax.Array


# The weights and the optimiser's state, as they pass from one iteration to the next.
Carry = tuple[Weights, optax.OptState]


def linear_probe(features: np.ndarray, labels: np.ndarray) -> Score:
    """Cross-validated accuracy of a linear classifier on the features; higher is better.

    Args:
        features: (n, d) float32 or float64, or (m, n, d) for m models at once.
        labels: (n,) integers; only classes that occur count.

    Returns:
        An accuracy in [0, 1], or (m,) for a batch.

    Raises:
        DataError: wrong shapes, non-finite features, fewer than two classes, or a class with
            fewer than two samples.
    """
    checked = check(features, labels)
    if np.bincount(checked.labels).min() < 2:
        raise errors.DataError(
            "a class has only one sample", "Give at least two samples of every class"
        )
    return evaluate(_accuracies, checked, folds(checked.labels))


def folds(labels: np.ndarray) -> np.ndarray:
    """Fold of every sample, (n,) in 0..FOLDS-1, stratified."""
    fold = np.empty(labels.size, dtype=np.int32)
    for c in range(labels.max() + 1):
        members = np.flatnonzero(labels == c)
        fold[members] = np.arange(members.size) % FOLDS
    return fold


def fit(features: jax.Array, one_hot: jax.Array, weight: jax.Array) -> Weights:
    """Minimise (W1) over the samples with weight 1 (those with weight 0 are left out)."""
    count = jnp.sum(weight)
    start = Weights(
        jnp.zeros((features.shape[1], one_hot.shape[1]), features.dtype),
        jnp.zeros(one_hot.shape[1], features.dtype),
    )

    def loss(w: Weights) -> jax.Array:
        logits = features @ w.kernel + w.bias
        entropy = optax.softmax_cross_entropy(logits, one_hot)
        penalty = jnp.sum(w.kernel**2) / (2 * INVERSE_PENALTY * count)
        return jnp.sum(weight * entropy) / count + penalty  # (W1)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Carry) -> Carry:
        w, state = carry
        value, gradient = value_and_grad(w, state=state)
        updates, state = solver.update(
            gradient, state, w, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(w, updates), state

    def running(carry: Carry) -> jax.Array:
        _, state = carry
        iteration = optax.tree.get(state, "count")
        gradient = optax.tree.get(state, "grad")
        large = optax.tree.norm(gradient) > _GRADIENT_TOLERANCE
        return (iteration == 0) | (large & (iteration < _MAX_ITERATIONS))

    solution, _ = jax.lax.while_loop(running, step, (start, solver.init(start)))
    return solution


@jax.jit
def _accuracies(features: jax.Array, one_hot: jax.Array, fold: jax.Array) -> jax.Array:
    def one(f: jax.Array) -> jax.Array:
        def left_out(k: jax.Array) -> jax.Array:
            weight = (fold != k).astype(f.dtype)
            count = jnp.sum(weight)
            mean = weight @ f / count
            spread = jnp.sqrt(weight @ (f - mean) ** 2 / count)
            x = (f - mean) / jnp.where(spread > 0, spread, 1.0)
            w = fit(x, one_hot, weight)
            correct = jnp.argmax(x @ w.kernel + w.bias, axis=1) == jnp.argmax(one_hot, axis=1)
            return jnp.sum(correct * (fold == k)).astype(f.dtype)

        return jnp.sum(jax.lax.map(left_out, jnp.arange(FOLDS))) / fold.size

    return jax.lax.map(one, features)
