"""Pure training and evaluation steps over a backbone with a head on top.

Everything a step needs travels in and out explicitly, so each is one `jax.jit` with donated
buffers: uint8 images stay on the device, a step picks its batch by index, preprocesses it,
and updates parameters, batch statistics and optimizer state.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ncap_jax.types import Head
from ncap_jax.zoo import functional

Arrays = Any
Augment = Callable[[jax.Array, jax.Array], jax.Array]
# Steps of one program where an epoch is scanned and somebody wants to stop it in between.
CHECKED_STEPS = 32


@dataclass(frozen=True)
class Network:
    """The static parts of a candidate with its head.

    Attributes:
        backbone: definition of the pretrained part; its method `features` is used.
        head: definition of the stacked heads (leading axis: probes).
        preprocess: uint8 (batch, height, width, channels) -> the backbone's float input.
        trained: which of `backbone` and `head` the optimizer moves.
    """

    backbone: functional.Functional
    head: functional.Functional
    preprocess: Callable[[jax.Array], jax.Array]
    trained: tuple[str, ...]


class TrainState(NamedTuple):
    """What a training step reads and replaces.

    Attributes:
        params: {"backbone", "head"} parameters, the frozen ones too.
        state: {"backbone", "head"} batch statistics and the like.
        optimizer: optax state of the trained parameters.
    """

    params: dict[str, Arrays]
    state: dict[str, Arrays]
    optimizer: Arrays


class Sums(NamedTuple):
    """Sums over samples, exact under any batching; leading axis: probes.

    Attributes:
        loss: summed cross-entropy in nats, (probes,) float32.
        correct: number of right answers, (probes,) float32.
        samples: how many there were, () float32.
    """

    loss: jax.Array
    correct: jax.Array
    samples: jax.Array


def trained_parts(head: Head) -> tuple[str, ...]:
    """Which parameters move under each of the three ways to run."""
    return ("backbone",) if head == "probe" else ("backbone", "head")


def head_logits(
    head: functional.Functional,
    params: Arrays,
    state: Arrays,
    features: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, Arrays]:
    """Logits (probes, batch, num_classes) float32 of features (batch, width), and head state."""

    def one(p, s):
        return functional.apply(head, p, s, features, train=train, method="__call__")

    logits, new_state = jax.vmap(one)(params, state)
    return logits.astype(jnp.float32), new_state


def forward(
    network: Network, params: Arrays, state: Arrays, images: jax.Array, *, train: bool
) -> tuple[jax.Array, Arrays]:
    """Logits (probes, batch, num_classes) of uint8 images, and the new state."""
    features, backbone = functional.apply(
        network.backbone,
        params["backbone"],
        state["backbone"],
        network.preprocess(images),
        train=train,
    )
    logits, head = head_logits(network.head, params["head"], state["head"], features, train=train)
    return logits, {"backbone": backbone, "head": head}


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    augment: Augment | None = None,
    micro_batches: int = 1,
    divide: Callable[[jax.Array], jax.Array] = lambda batch: batch,
) -> Callable:
    """Build `step(train_state, images, labels, indices, key) -> (train_state, loss)`, not jitted.

    The loss is the mean cross-entropy over the batch, averaged over the probes.

    Args:
        network: static parts.
        optimizer: applied to the trained parameters.
        augment: (key, uint8 batch) -> uint8 batch, or None.
        micro_batches: parts that the batch is taken in, one after the other (`accumulated`).
        divide: the batch over several devices (`parallel.divider`).
    """

    def loss_of(trained, frozen, state, images, labels):
        logits, new_state = forward(network, {**frozen, **trained}, state, images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[None, :])
        return jnp.mean(losses), new_state

    def step(train_state: TrainState, images, labels, indices, key):
        batch = divide(jnp.take(images, indices, axis=0))
        if augment is not None:
            batch = augment(key, batch)
        trained = {part: train_state.params[part] for part in network.trained}
        frozen = {k: v for k, v in train_state.params.items() if k not in trained}
        gradient = partial(jax.value_and_grad(loss_of, has_aux=True), trained, frozen)
        (loss, state), gradients = accumulated(
            gradient, train_state.state, batch, jnp.take(labels, indices), micro_batches
        )
        updates, moments = optimizer.update(gradients, train_state.optimizer, trained)
        trained = optax.apply_updates(trained, updates)
        return TrainState({**frozen, **trained}, state, moments), loss

    return step


def accumulated(
    gradient: Callable, state: Arrays, images: jax.Array, labels: jax.Array, micro_batches: int
) -> tuple[tuple[jax.Array, Arrays], Arrays]:
    """`gradient` of a batch, taken in parts one after the other, in that much less memory.

    A mean over n samples is the sum of the parts' means, each times its share n_m / n: the update
    is the whole batch's up to rounding. Not so where samples see one another: batch norm takes
    its statistics from a part, and moves its running ones once a part.

    Args:
        gradient: (state, images, labels) -> ((mean loss, state), gradients of it).
        state: before the batch.
        images: (batch, height, width, channels).
        labels: (batch,).
        micro_batches: parts; as equal as the batch's size allows.

    Returns:
        ((loss, state after the last part), gradients).
    """
    if micro_batches == 1:
        return gradient(state, images, labels)
    total: Any = None
    parts = zip(*(jnp.array_split(array, micro_batches) for array in (images, labels)))
    for x, y in parts:
        if total is not None:
            # Without the barrier a compiler may run the parts side by side, in the whole memory.
            total, state, x = jax.lax.optimization_barrier((total, state, x))
        (loss, state), gradients = gradient(state, x, y)
        share = len(y) / len(labels)
        part = jax.tree.map(lambda leaf, share=share: leaf * share, (loss, gradients))
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    loss, gradients = total
    return (loss, state), gradients


def make_epoch(
    step: Callable, *, scan: bool, placement: Mapping[str, Any] = types.MappingProxyType({})
) -> Callable:
    """Build `epoch(train_state, images, labels, batches, keys, check=None)`.

    Args:
        step: from `make_train_step`.
        scan: one jitted `lax.scan` over the steps (no host round trip: right on accelerators),
            or a Python loop over the jitted step (on the CPU XLA runs convolutions inside a
            scan 6 to 20 times slower).
        placement: of the results, arguments for `jax.jit` (`parallel.replicated`).

    Returns:
        A function of `batches` (steps, batch_size) int32 and `keys` (steps,) that returns
        (train_state, losses); the train state is donated; losses are (steps,) float32 on the
        device. `check`, if given, is called before every step, once the one before it has been
        computed, and may raise; with `scan` every `CHECKED_STEPS` steps.
    """
    if scan:

        def scanned(train_state, images, labels, batches, keys):
            def body(carry, xs):
                return step(carry, images, labels, *xs)

            return jax.lax.scan(body, train_state, (batches, keys))

        whole = jax.jit(scanned, donate_argnums=0, **placement)

        def in_pieces(train_state, images, labels, batches, keys, check=None):
            if check is None:
                return whole(train_state, images, labels, batches, keys)
            losses: list[jax.Array] = []
            for start in range(0, len(batches), CHECKED_STEPS):
                _await(losses, check)
                piece = slice(start, start + CHECKED_STEPS)
                train_state, part = whole(train_state, images, labels, batches[piece], keys[piece])
                losses.append(part)
            return train_state, jnp.concatenate(losses)

        return in_pieces

    jitted = jax.jit(step, donate_argnums=0, **placement)

    def looped(train_state, images, labels, batches, keys, check=None):
        losses: list[jax.Array] = []
        for indices, key in zip(batches, keys):
            if check is not None:
                _await(losses, check)
            train_state, loss = jitted(train_state, images, labels, indices, key)
            losses.append(loss)
        return train_state, jnp.stack(losses)

    return looped


def _await(losses: list[jax.Array], check: Callable[[], None]) -> None:
    # Dispatch is asynchronous: a clock read before the last step is done would tell nothing.
    jax.block_until_ready(losses[-1:])
    check()


def make_features(
    network: Network,
    divide: Callable[[jax.Array], jax.Array] = lambda batch: batch,
    placement: Mapping[str, Any] = types.MappingProxyType({}),
) -> Callable:
    """Build the jitted `features(params, state, batch) -> (batch, width)` float32.

    It takes the batch itself, not a data set and indices: one program serves the measurement
    subset and the validation part, whatever their sizes. `divide`, `placement`: see
    `make_train_step` and `make_epoch`.
    """

    @partial(jax.jit, **placement)
    def features(params, state, batch):
        y, _ = functional.apply(
            network.backbone,
            params["backbone"],
            state["backbone"],
            network.preprocess(divide(batch)),
            train=False,
        )
        return y.astype(jnp.float32)

    return features


@partial(jax.jit, static_argnames="head")
def head_sums(
    head: functional.Functional,
    params: Arrays,
    state: Arrays,
    features: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> Sums:
    """`sums` of the heads' logits of features (batch, width), inference mode.

    Compiled once for all models of one feature width: only the backbone's pass is the model's.
    """
    logits, _ = head_logits(head, params, state, features, train=False)
    return sums(logits, labels, mask)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Summed loss and hits of logits (probes, batch, classes) against labels (batch,)."""
    mask = mask.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[None, :])
    hits = (jnp.argmax(logits, axis=-1) == labels[None, :]).astype(jnp.float32)
    # A masked sample is a repeat of a real one; `where` keeps its inf or NaN out as well.
    return Sums(
        jnp.sum(jnp.where(mask[None, :] > 0, losses, 0.0), axis=1),
        jnp.sum(hits * mask[None, :], axis=1),
        jnp.sum(mask),
    )
