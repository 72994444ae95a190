"""The pure steps: what moves, what stays, that every path gives the same numbers, once compiled."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import learning_rates, loop, steps
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.finetune.optimizers import ConstantRate
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import probe
from tests.support.compilations import compilations
from tests.support.small import (
    cheap_init,
    small_config,
    small_digits,
    small_feed,
    small_spec,
    small_tuning,
    timeless,
)

# Not Adam where numbers are compared: a gradient that is rounding noise around 0 it makes a whole
# step of. One program, for these tests to share.
SGD = {"optimizer": "sgd", "learning_rate": 0.01, "head": "linear"}


def copy(tree):
    return jax.tree.map(np.array, tree)


def first_epoch():
    """The chunk of an epoch in four steps, and the epoch's key."""
    (chunk,) = small_feed().train(0, 1, 24)
    return chunk, jax.random.key(0)


def one_step(program, train_state, batch=32):
    """The state after a step of the first samples, and its loss."""
    chunk, key = first_epoch()
    chunk = chunk._replace(indices=np.arange(batch)[None])
    after, losses = steps.train_steps(program, train_state, chunk, key, scan=False)
    return after, losses[0]


def one_epoch(tuning):
    before = copy(tuning.candidate.train_state)
    after, loss = loop.train_epoch(tuning, tuning.candidate.train_state, epoch=1)
    return before, copy(after), loss


def kernel(train_state):
    return np.array(train_state.params["backbone"]["conv"]["kernel"])


@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
def test_what_trains(head):
    before, after, loss = one_epoch(small_tuning(head=head))
    assert np.isfinite(loss)
    assert np.any(kernel(before) != kernel(after))
    if head == "probe":
        # Frozen: kernels, biases and batch norm's scale and offset stay as drawn.
        chex.assert_trees_all_equal(before.params["head"], after.params["head"])
    else:
        changed = jax.tree.map(
            lambda a, b: bool(np.any(a != b)), before.params["head"], after.params["head"]
        )
        assert changed["output"]["kernel"]
    # The running statistics follow the features, below and in the probe.
    assert np.any(
        before.state["backbone"]["norm"]["mean"] != after.state["backbone"]["norm"]["mean"]
    )
    if head != "linear":
        assert np.any(
            before.state["head"]["norm"][0]["mean"] != after.state["head"]["norm"][0]["mean"]
        )


def test_scan_equals_loop_in_one_piece_and_in_several(monkeypatch):
    """Whoever may stop a scan is asked before each piece of it."""
    monkeypatch.setattr(steps, "SCANNED_STEPS", 2)
    asked, results = [], []
    for options in (
        {"scan": False},
        {"scan": True},
        {"scan": True, "deadline": lambda: asked.append(1)},
    ):
        candidate = small_tuning(**SGD).candidate
        state, losses = steps.train_steps(
            candidate.program, candidate.train_state, *first_epoch(), **options
        )
        assert losses.shape == (4,)
        results.append((copy(state), np.array(losses)))
    assert len(asked) == 2
    for found in results[1:]:
        # One step's rounding (other fusions), grown over four steps.
        chex.assert_trees_all_close(results[0], found, rtol=1e-4, atol=1e-5)


def test_a_step_is_asked_for_once_the_one_before_is_done():
    candidate, asked = small_tuning(**SGD).candidate, []
    steps.train_steps(
        candidate.program,
        candidate.train_state,
        *first_epoch(),
        deadline=lambda: asked.append(1),
        scan=False,
    )
    assert len(asked) == 4


class Traced(nnx.Module):
    """Counts how often JAX looks at its code; every program that holds it looks once."""

    looks: ClassVar[list[bool]] = []

    def __init__(self, *, rngs, dtype=None):
        options = {"kernel_init": cheap_init, "rngs": rngs, "dtype": dtype}
        self.conv = nnx.Conv(3, 11, (4, 4), strides=4, **options)
        self.norm = nnx.BatchNorm(11, rngs=rngs, dtype=dtype)

    def features(self, x):
        self.looks.append(self.norm.use_running_average)
        return jnp.mean(nnx.relu(self.norm(self.conv(x))), axis=(1, 2))


def test_one_architecture_is_compiled_once(tmp_path):
    """Other names, weights and rates, a model that pauses: all run the first one's programs."""
    spec = ModelSpec("first", Traced, input_size=8, feature_width=11)  # no other test has
    config = small_config(head="linear", measure_size=64)

    def finetune(name, folder=None, seen=(), until=None, **changes):
        changed = dataclasses.replace(config, **changes)
        named = dataclasses.replace(spec, name=name)
        tuning = FineTuning(prepare(named, small_feed(), changed), small_feed(), changed)
        checkpoints = None if folder is None else Checkpoints(folder)
        return loop.finetune(tuning, seen=seen, until=until, checkpoints=checkpoints)

    Traced.looks.clear()
    with compilations() as programs:
        whole = finetune("first")
    # The backbone's two programs: a training step, and features in inference mode.
    assert sorted(Traced.looks) == [False, True]
    # One size of batches serves the measurement subset and the validation part.
    for name in ("train_step", "features", "head_sums"):
        assert programs.count(f"jit({name})") == 1, name
    with compilations() as programs:
        finetune("second", seed=5)
        finetune("third", learning_rate=3e-2)
    assert programs == []
    with compilations() as programs:
        finetune("fourth", learning_rate=1e-2, trial_rates=(1e-1,))
        paused = finetune("first", tmp_path / "c", until=1)
        resumed = finetune("first", tmp_path / "c", seen=paused.records)
    assert {"jit(train_step)", "jit(features)", "jit(head_sums)"}.isdisjoint(programs)
    assert sorted(Traced.looks) == [False, True]
    assert timeless(resumed.records) == timeless(whole.records)
    # What is compiled anew is noticed: another optimizer is another program.
    with compilations() as programs:
        finetune("first", optimizer="sgd")
    assert programs.count("jit(train_step)") == 1


def black(key, images):
    assert (key.shape, images.dtype, images.shape) == ((), jnp.uint8, (32, 8, 8, 3))
    return jnp.zeros_like(images)


def test_augmentation_sees_every_batch_with_its_own_key():
    config, seen = small_config(**SGD), []

    def noted(key, images):
        jax.debug.callback(lambda data: seen.append(data.tolist()), jax.random.key_data(key))
        return black(key, images)

    candidate = prepare(small_spec(), small_feed(), config, augment=noted)
    _, _, loss = one_epoch(FineTuning(candidate, small_feed(), config))
    jax.effects_barrier()
    assert len({tuple(key) for key in seen}) == len(seen) == 3
    assert loss != one_epoch(small_tuning(**SGD))[2]


class NormFree(nnx.Module):
    """Samples do not see one another."""

    def __init__(self, *, rngs, dtype=None):
        self.conv = nnx.Conv(
            3, 6, (4, 4), strides=4, param_dtype=jnp.float64, kernel_init=cheap_init, rngs=rngs
        )
        self.dropout = nnx.Dropout(0.0, rngs=rngs)  # random streams are part of the state

    def features(self, x):
        return self.dropout(jnp.mean(nnx.gelu(self.conv(x)), axis=(1, 2)))


def flip(key, images):
    """Mirrors every other image; the key says which."""
    mirrored = (jax.random.key_data(key)[-1] + jnp.arange(len(images))) % 2 == 0
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


@pytest.mark.parametrize(("batch", "micro_batches"), [(32, 2), (33, 2)])
def test_accumulated_step_equals_the_plain_one(batch, micro_batches):
    """For a model without batch norm, of any batch size, with augmentation."""
    config = small_config(head="linear", optimizer="sgd", learning_rate=1.0)
    results = []
    with jax.enable_x64(True):
        feed = make_feed(small_digits())
        for parts in (1, micro_batches):
            spec = ModelSpec("free", NormFree, 8, 6)
            candidate = prepare(spec, feed, config, augment=flip, micro_batches=parts)
            before = copy(candidate.train_state.params)
            after, loss = one_step(candidate.program, candidate.train_state, batch)
            results.append((copy(after.params), loss))
    assert results[0][0]["backbone"]["conv"]["kernel"].dtype == np.float64
    # The cross-entropy is float32 by design: its rounding, 1e-7, is all that remains.
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, results[1][0])
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_batch_statistics_of_an_accumulated_step_are_the_parts():
    """The running mean moves once a part: m² s + m (1 - m) mean_1 + (1 - m) mean_2."""
    feed = small_feed()
    candidate = prepare(small_spec(), feed, small_config(head="linear"), micro_batches=2)
    images = candidate.network.preprocess(feed.subset(np.arange(32))[0])
    outputs = jax.lax.conv_general_dilated(
        *(images, kernel(candidate.train_state), (4, 4), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    one, two = (jnp.mean(part, axis=(0, 1, 2)) for part in jnp.split(outputs, 2))
    after, _ = one_step(candidate.program, candidate.train_state)
    expected = 0.9 * 0.1 * one + 0.1 * two
    found = after.state["backbone"]["norm"]["mean"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_masked_samples_do_not_count_even_if_not_finite():
    logits = jnp.array([[[2.0, 0.0], [jnp.nan, 1.0]]])
    sums = jax.jit(steps.sums)(logits, np.array([0, 1], np.int32), np.array([True, False]))
    np.testing.assert_allclose(sums.loss, [np.log(1 + np.exp(-2.0))], rtol=1e-6)
    assert float(sums.samples) == 1
    assert float(sums.correct[0]) == 1
    for column in (sums.class_samples, sums.class_correct[0], sums.class_predicted[0]):
        np.testing.assert_array_equal(column, [1, 0])


def with_two_heads(train_state):
    """The state with another linear head beside its own."""
    _, params, _ = probe.make_linear_head(12, 10, seed=1)
    both = jax.tree.map(lambda *heads: jnp.concatenate(heads), train_state.params["head"], params)
    return train_state._replace(params={**train_state.params, "head": both})


def test_features_and_heads_make_the_logits():
    """Batches go through the backbone in `features` and through the heads in `head_sums`."""
    candidate = small_tuning(head="linear").candidate
    network, (params, state, _) = candidate.network, with_two_heads(candidate.train_state)
    images, labels = small_feed().subset(np.arange(70))
    forward = jax.jit(steps.forward, static_argnames=("network", "train"))
    logits, _ = forward(network, params, state, images, train=False)
    assert logits.shape == (2, 70, 10)
    found = steps.features(network, params, state, images)
    assert (found.shape, found.dtype) == ((70, 12), jnp.float32)
    mask = np.arange(70) < 13
    sums = steps.head_sums(network.head, params["head"], state["head"], found, labels, mask)
    log_p = np.asarray(jax.nn.log_softmax(logits[:, mask]))
    right = np.asarray(labels)[mask]
    np.testing.assert_allclose(sums.loss, -log_p[:, np.arange(13), right].sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(sums.correct, (log_p.argmax(axis=-1) == right).sum(axis=1))
    assert float(sums.samples) == 13
    given = log_p.argmax(axis=-1)
    np.testing.assert_array_equal(sums.class_samples, np.bincount(right, minlength=10))
    for head in range(2):
        hits = right[given[head] == right]
        np.testing.assert_array_equal(sums.class_correct[head], np.bincount(hits, minlength=10))
        expected = np.bincount(given[head], minlength=10)
        np.testing.assert_array_equal(sums.class_predicted[head], expected)


def test_several_heads_average_their_losses():
    """Two heads over one backbone: the gradient is the mean of the two heads' gradients."""
    candidate = small_tuning(**SGD).candidate
    both = with_two_heads(candidate.train_state)

    def moved(heads):
        head = jax.tree.map(lambda a: a[heads], both.params["head"])
        params = {**both.params, "head": head}
        optimizer = ConstantRate("sgd", learning_rate=1.0)()
        before = steps.TrainState(params, both.state, optimizer.init(params))
        before = jax.tree.map(jnp.array, before)  # a step consumes it
        start = kernel(before)
        return kernel(one_step(candidate.program, before)[0]) - start

    mean = (moved(slice(0, 1)) + moved(slice(1, 2))) / 2
    # The difference of two float32 kernels of size 1 carries their rounding, 1e-7.
    np.testing.assert_allclose(moved(slice(None)), mean, rtol=1e-3, atol=1e-6)


def test_bfloat16_trains_with_float32_parameters():
    before, after, loss = one_epoch(small_tuning(dtype="bfloat16", head="linear"))
    assert np.isfinite(loss)
    assert np.any(kernel(before) != kernel(after))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(after.params))


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, SGD])
def test_the_learning_rate_is_that_of_the_state(changes):
    moved = []
    for rate in (1e-3, 1e-2):
        candidate = small_tuning(**changes).candidate
        before = kernel(candidate.train_state)
        train_state = learning_rates.with_rate(candidate.train_state, rate)
        moved.append(kernel(one_step(candidate.program, train_state)[0]) - before)
    # A first step is proportional to the rate; the float32 kernels of size 1 round to 1e-7.
    np.testing.assert_allclose(moved[1], 10 * moved[0], rtol=1e-3, atol=2e-6)


def test_a_step_consumes_the_state_that_it_is_given():
    tuning = small_tuning(**SGD)
    one_step(tuning.candidate.program, tuning.candidate.train_state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(tuning.candidate.train_state))


def test_rates_are_those_of_each_step_in_a_scan_and_in_a_loop():
    """At the rate 0 nothing moves; a constant rate is the state's own."""
    chunk, key = first_epoch()
    ends = []
    for scan, rates in (
        (False, None),
        (False, np.full(4, 0.01, np.float32)),
        (False, np.array([0, 0.02, 0, 0], np.float32)),
        (True, np.array([0, 0.02, 0, 0], np.float32)),
    ):
        candidate = small_tuning(**SGD).candidate
        before = copy(candidate.train_state.params)
        after, _ = steps.train_steps(
            candidate.program, candidate.train_state, chunk, key, scan=scan, rates=rates
        )
        ends.append(copy(after.params))
    chex.assert_trees_all_equal(ends[0], ends[1])
    chex.assert_trees_all_close(ends[2], ends[3], atol=1e-6)
    still = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, ends[2])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, ends[1])
    assert max(jax.tree.leaves(still)) > 0
    assert still != moved


def test_a_class_of_weight_zero_does_not_count():
    candidate = small_tuning(**SGD).candidate
    chunk, _ = first_epoch()
    labels = np.asarray(chunk.labels)[:24]
    images = chunk.images[:24]
    weights = tuple(float(k == labels[0]) for k in range(10))
    arrays = candidate.train_state.params, {}, candidate.network, candidate.train_state.state
    loss, _ = steps.loss_of_batch(*arrays, (images, jnp.asarray(labels)), weights)
    logits, _ = steps.forward(candidate.network, *candidate.train_state[:2], images, train=True)
    shares = jax.nn.log_softmax(logits[0])[np.arange(24), labels]
    expected = -np.sum(np.asarray(shares) * (labels == labels[0])) / 24
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_what_is_held_stays_though_moments_push_it():
    candidate = small_tuning(head="linear").candidate
    after, _ = one_step(candidate.program, candidate.train_state)
    before = copy(after.params)
    leaves = jax.tree.leaves(before["backbone"])
    program = dataclasses.replace(candidate.program, held=(True, *[False] * (len(leaves) - 1)))
    later, _ = one_step(program, after)
    first, *others = zip(leaves, jax.tree.leaves(copy(later.params["backbone"])), strict=True)
    np.testing.assert_array_equal(*first)
    assert all((a != b).any() for a, b in others)
