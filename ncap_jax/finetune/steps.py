"""Pure training and evaluation steps over a backbone with a head on top.

Everything a step needs travels in and out explicitly, so each is one `jax.jit` with donated
buffers: uint8 images stay on the device, a step picks its batch by index, preprocesses it,
and updates parameters, batch statistics and optimizer state.

The jitted functions are module-level and take what is static (`Network`, `Program`) as an
argument that is compared by value: two candidates of one architecture, and a model that resumes,
share one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ncap_jax.data.feed import Chunk
from ncap_jax.finetune.learning_rates import with_rate
from ncap_jax.finetune.mesh import divide, keep_whole
from ncap_jax.finetune.optimizers import Optimizer
from ncap_jax.ops.effort import Effort, Jitted
from ncap_jax.options import Head
from ncap_jax.zoo import functional

Arrays = Any
Augment = Callable[[jax.Array, jax.Array], jax.Array]
# Called between two steps: raises once the time is over, which ends the run.
Deadline = Callable[[], None]
# Steps per scan where a run may be stopped between steps: `deadline` is called between scans.
SCANNED_STEPS = 32


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


@dataclass(frozen=True)
class Program:
    """What decides a compiled training step; a static argument of it.

    Attributes:
        network: static parts.
        optimizer: makes what is applied to the trained parameters.
        augment: (key, uint8 batch) -> uint8 batch, hashable, or None.
        micro_batches: parts in which a batch is taken, one after the other (`accumulated`).
        mesh: devices over which a batch is divided; None: one device.
        effort: of its compilation.
        class_weights: of each class's samples in the loss, K numbers; empty: all count alike.
        held: of each leaf of the backbone's parameters, whether it stays as it is; empty: none.
    """

    network: Network
    optimizer: Optimizer
    augment: Augment | None = None
    micro_batches: int = 1
    mesh: Mesh | None = None
    effort: Effort = "full"
    class_weights: tuple[float, ...] = ()
    held: tuple[bool, ...] = ()


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
        loss: summed cross-entropy in nats, (probes,) float32 of a batch, float64 of several.
        correct: number of right answers, (probes,), likewise.
        samples: how many there were, (), likewise.
        class_samples: how many of each class, (classes,) int32 of a batch, float64 of several.
        class_correct: how many of these were given their class, (probes, classes), likewise.
        class_predicted: how many were given each class, (probes, classes), likewise.
    """

    loss: Any
    correct: Any
    samples: Any
    class_samples: Any
    class_correct: Any
    class_predicted: Any


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

    def one(p: Arrays, s: Arrays) -> tuple[jax.Array, Arrays]:
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


def loss_of_batch(
    trained: Arrays,
    frozen: Arrays,
    network: Network,
    state: Arrays,
    batch: tuple[jax.Array, jax.Array],
    class_weights: tuple[float, ...] = (),
) -> tuple[jax.Array, Arrays]:
    """Mean cross-entropy in nats over a batch of (images, labels) and the probes; the state.

    With class weights each sample's counts as often as the weight of its class says.
    """
    images, labels = batch
    logits, new_state = forward(network, {**frozen, **trained}, state, images, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[None, :])
    if class_weights:
        losses = losses * jnp.asarray(class_weights, jnp.float32)[labels][None, :]
    return jnp.mean(losses), new_state


def without_held(tree: Arrays, held: tuple[bool, ...], put: Callable[[Any], Any]) -> Arrays:
    """The trained parts with `put` in place of the backbone's leaves that are held."""
    if not any(held):
        return tree
    leaves, structure = jax.tree.flatten(tree["backbone"])
    leaves = [put(leaf) if stays else leaf for leaf, stays in zip(leaves, held, strict=True)]
    return {**tree, "backbone": jax.tree.unflatten(structure, leaves)}


def train_step(
    program: Program,
    train_state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    number: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One update, not jitted.

    Args:
        program: static.
        train_state: before the step.
        images: (n, height, width, channels) uint8, the whole set.
        labels: (n,) int32.
        indices: (batch,) int32, the batch's samples.
        key: of the epoch's augmentation.
        number: of the step in its epoch, () integer; decides its own key.

    Returns:
        The state after the step, and the batch's mean loss in nats, () float32.
    """
    network = program.network
    batch = divide(program.mesh, jnp.take(images, indices, axis=0))
    if program.augment is not None:
        batch = program.augment(jax.random.fold_in(key, number), batch)
    trained = {part: train_state.params[part] for part in network.trained}
    frozen = {k: v for k, v in train_state.params.items() if k not in trained}

    def gradient(
        state: Arrays, images: jax.Array, labels: jax.Array
    ) -> tuple[tuple[jax.Array, Arrays], Arrays]:
        def loss(moved: Arrays) -> tuple[jax.Array, Arrays]:
            # What is held needs no gradient: the compiler leaves its computation out.
            moved = without_held(moved, program.held, jax.lax.stop_gradient)
            part = images, labels
            return loss_of_batch(moved, frozen, network, state, part, program.class_weights)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    (loss, state), gradients = accumulated(
        gradient, train_state.state, batch, jnp.take(labels, indices), program.micro_batches
    )
    updates, moments = program.optimizer().update(gradients, train_state.optimizer, trained)
    updates = without_held(updates, program.held, jnp.zeros_like)  # moments of before push on
    trained = optax.apply_updates(trained, updates)
    after = TrainState({**frozen, **trained}, state, moments)
    return keep_whole(program.mesh, (after, loss))


def accumulated(
    gradient: Callable, state: Arrays, images: jax.Array, labels: jax.Array, micro_batches: int
) -> tuple[tuple[jax.Array, Arrays], Arrays]:
    """`gradient` of a batch, taken in parts one after the other, which needs less memory.

    A mean over n samples is the sum of the parts' means, each times its share n_m / n: the update
    is the whole batch's up to rounding. This does not hold where samples depend on one another:
    batch norm takes its statistics from each part, and updates the running ones once per part.

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
            # Without the barrier the compiler may run the parts in parallel, in all the memory.
            total, state, x = jax.lax.optimization_barrier((total, state, x))
        (loss, state), gradients = gradient(state, x, y)
        share = len(y) / len(labels)
        part = jax.tree.map(lambda leaf, share=share: leaf * share, (loss, gradients))
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    loss, gradients = total
    return (loss, state), gradients


_step = Jitted(train_step, static_argnames="program", donate_argnames="train_state")


@partial(Jitted, static_argnames="program", donate_argnames="train_state")
def _scanned_steps(
    program: Program,
    train_state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    key: jax.Array,
    numbers: jax.Array,
    rates: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
    def body(carry: TrainState, xs: tuple[Any, ...]) -> tuple[TrainState, jax.Array]:
        indices, number, rate = xs
        carry = carry if rate is None else with_rate(carry, rate)
        return train_step(program, carry, images, labels, indices, key, number)

    return jax.lax.scan(body, train_state, (batches, numbers, rates))


def train_steps(
    program: Program,
    train_state: TrainState,
    chunk: Chunk,
    key: jax.Array,
    start: int = 0,
    *,
    deadline: Deadline | None = None,
    scan: bool | None = None,
    rates: np.ndarray | None = None,
) -> tuple[TrainState, jax.Array]:
    """One update for every batch of a chunk.

    Args:
        program: static.
        train_state: donated.
        chunk: images on the device and the batches to take of them.
        key: random key of the epoch. A step's number in the epoch decides its own key, so that
            the keys do not depend on how the epoch is cut into chunks.
        start: number of the chunk's first step in the epoch.
        deadline: called before every step, once the previous one has been computed (with `scan`,
            every `SCANNED_STEPS` steps); an exception that it raises ends the training.
        scan: one jitted `lax.scan` over the steps (no host round trip: right on accelerators), or
            a Python loop over the jitted step (on the CPU XLA runs convolutions inside a scan 6
            to 20 times slower). None: as suits the backend.
        rates: (steps,) float32, the learning rate of every step; None: the state's own.

    Returns:
        The state, and the losses (steps,) float32 on the device.
    """
    # On the host: an array on the device would be cut into steps by programs of its own.
    batches = np.asarray(chunk.indices)
    numbers = np.arange(start, start + len(batches), dtype=np.uint32)
    if _scans(scan):
        work = chunk.images, chunk.labels, batches, key, numbers, rates
        return _scanned_pieces(program, train_state, work, deadline)
    losses: list[jax.Array] = []
    step = _step.at(program.effort)
    for place, (indices, number) in enumerate(zip(batches, numbers)):
        _meet(deadline, losses)
        if rates is not None:
            train_state = with_rate(train_state, rates[place])
        train_state, loss = step(
            program, train_state, chunk.images, chunk.labels, indices, key, number
        )
        losses.append(loss)
    return train_state, jnp.stack(losses)


def compile_steps(
    program: Program,
    train_state: TrainState,
    chunk: Chunk,
    *,
    in_pieces: bool = False,
    scan: bool | None = None,
) -> None:
    """Compile what `train_steps` will run, which then compiles nothing.

    Args:
        program: static.
        train_state: of which shapes and dtypes are looked at.
        chunk: as it will be trained on.
        in_pieces: whether there will be a deadline.
        scan: as for `train_steps`.
    """
    key, batches = jax.random.key(0), np.asarray(chunk.indices)
    numbers = np.zeros(len(batches), np.uint32)
    arrays = program, train_state, chunk.images, chunk.labels
    if _scans(scan):
        size = SCANNED_STEPS if in_pieces else len(batches)
        scanned = _scanned_steps.at(program.effort)
        # None, although it is the default: for JAX a call without it is another one.
        scanned.lower(*arrays, batches[:size], key, numbers[:size], None).compile()
    else:
        _step.at(program.effort).lower(*arrays, batches[0], key, numbers[0]).compile()


def _scans(scan: bool | None) -> bool:
    return jax.default_backend() != "cpu" if scan is None else scan


def _scanned_pieces(
    program: Program,
    train_state: TrainState,
    work: tuple[Any, Any, np.ndarray, Any, np.ndarray, np.ndarray | None],
    deadline: Deadline | None,
) -> tuple[TrainState, jax.Array]:
    """`train_steps` in one scan, or, with a deadline, in scans of `SCANNED_STEPS` steps."""
    losses: list[jax.Array] = []
    steps = _scanned_steps.at(program.effort)
    images, labels, batches, key, numbers, rates = work
    size = len(batches) if deadline is None else SCANNED_STEPS
    for start in range(0, len(batches), size):
        _meet(deadline, losses)
        piece = slice(start, start + size)
        train_state, part = steps(
            program,
            train_state,
            images,
            labels,
            batches[piece],
            key,
            numbers[piece],
            None if rates is None else rates[piece],
        )
        losses.append(part)
    return train_state, losses[0] if len(losses) == 1 else jnp.concatenate(losses)


def _meet(deadline: Deadline | None, losses: list[jax.Array]) -> None:
    if deadline is not None:
        # Dispatch is asynchronous: a clock is meaningless until the last step is done.
        jax.block_until_ready(losses[-1:])
        deadline()


@partial(Jitted, static_argnames=("network", "mesh"))
def features(
    network: Network, params: Arrays, state: Arrays, batch: jax.Array, mesh: Mesh | None = None
) -> jax.Array:
    """Features (batch, width) float32 of uint8 images, inference mode.

    It takes a batch instead of a data set and indices: one program serves the measurement subset
    and the validation part, whatever their sizes.
    """
    y, _ = functional.apply(
        network.backbone,
        params["backbone"],
        state["backbone"],
        network.preprocess(divide(mesh, batch)),
        train=False,
    )
    return keep_whole(mesh, y.astype(jnp.float32))


@partial(Jitted, static_argnames="head")
def head_sums(
    head: functional.Functional,
    params: Arrays,
    state: Arrays,
    features: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> Sums:
    """`sums` of the heads' logits of features (batch, width), inference mode.

    Apart from the backbone, so that it is compiled once for all models of one feature width.
    """
    logits, _ = head_logits(head, params, state, features, train=False)
    return sums(logits, labels, mask)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """`Sums` of logits (probes, batch, classes) against labels (batch,), where mask (batch,)."""
    counted, mask = mask.astype(bool), mask.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[None, :])
    given = jnp.argmax(logits, axis=-1)
    right = given == labels[None, :]
    hits = right.astype(jnp.float32)
    classes = logits.shape[-1]
    # `where` also keeps an infinite loss of a masked sample out, which 0 times it would not.
    return Sums(
        jnp.sum(jnp.where(mask[None, :] > 0, losses, 0.0), axis=1),
        jnp.sum(hits * mask[None, :], axis=1),
        jnp.sum(mask),
        _by_class(labels, counted, classes),
        _by_class(
            jnp.broadcast_to(labels[None, :], right.shape), right & counted[None, :], classes
        ),
        _by_class(given, jnp.broadcast_to(counted[None, :], right.shape), classes),
    )


def _by_class(labels: jax.Array, counted: jax.Array, classes: int) -> jax.Array:
    """How many of the labels (..., batch) that count are of each class, (..., classes) int32."""
    numbers = jnp.arange(classes, dtype=labels.dtype).reshape((1,) * labels.ndim + (-1,))
    return jnp.sum((labels[..., None] == numbers) & counted[..., None], axis=-2, dtype=jnp.int32)
