"""The pure steps: what moves, what stays, and that every path gives the same numbers."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.data import batching
from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import candidate as candidates
from ncap_jax.finetune import loop, steps
from ncap_jax.finetune.config import make_optimizer
from ncap_jax.types import ModelSpec
from tests.small import small_config, small_digits, small_spec


@pytest.fixture(scope="module")
def digits():
    return make_feed(small_digits())


@pytest.fixture(scope="module")
def train(digits):
    """All training images and labels on the device."""
    return digits.subset(np.arange(96))


def copy(tree):
    return jax.tree.map(np.array, tree)


def one_epoch(candidate, digits, config):
    before = copy(candidate.train_state)
    after, loss = loop.train_epoch(candidate, candidate.train_state, digits, config, epoch=1)
    return before, copy(after), loss


@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
def test_what_trains(digits, head):
    config = small_config(head=head)
    before, after, loss = one_epoch(loop.prepare(small_spec(), digits, config), digits, config)
    assert np.isfinite(loss)
    assert np.any(
        before.params["backbone"]["conv"]["kernel"] != after.params["backbone"]["conv"]["kernel"]
    )
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


def test_scan_equals_loop(digits, train):
    # Not Adam: where a gradient is rounding noise around 0, Adam makes whole steps of it.
    config = small_config(optimizer="sgd", learning_rate=0.01)
    batches = jnp.asarray(batching.epoch_batches(0, 1, len(digits.labels), 32))
    keys = jax.random.split(jax.random.key(0), len(batches))
    results = []
    for scan in (False, True):
        candidate = loop.prepare(small_spec(), digits, config)
        step = steps.make_train_step(candidate.network, make_optimizer(config))
        epoch = steps.make_epoch(step, scan=scan)
        state, losses = epoch(candidate.train_state, *train, batches, keys)
        results.append((copy(state), np.array(losses)))
    # One step's rounding (other fusions), grown over three steps.
    chex.assert_trees_all_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_the_step_is_compiled_once(digits, train):
    config = small_config()
    candidate = loop.prepare(small_spec(), digits, config)
    step = steps.make_train_step(candidate.network, make_optimizer(config))
    counted = chex.assert_max_traces(step, n=1)
    epoch = steps.make_epoch(counted, scan=False)
    state = candidate.train_state
    for number in (1, 2, 3):
        batches = jnp.asarray(batching.epoch_batches(0, number, len(digits.labels), 32))
        keys = jax.random.split(jax.random.key(number), len(batches))
        state, _ = epoch(state, *train, batches, keys)


def test_augmentation_sees_every_batch_with_its_own_key(digits):
    config = small_config()
    seen = []

    def black(key, images):
        seen.append((key.shape, images.dtype, images.shape))
        return jnp.zeros_like(images)

    candidate = loop.prepare(small_spec(), digits, config, augment=black)
    _, _, loss = one_epoch(candidate, digits, config)
    assert seen == [((), jnp.uint8, (32, 8, 8, 3))]
    plain = loop.prepare(small_spec(), digits, config)
    assert loss != one_epoch(plain, digits, config)[2]


@pytest.mark.parametrize("batch", [7, 32, 70, 256])
def test_evaluation_counts_every_sample_once(digits, monkeypatch, batch):
    config = small_config()
    candidate = loop.prepare(small_spec(), digits, config)
    (chunk,) = digits.validation(32)
    images, labels = chunk.images, chunk.labels
    logits, _ = steps.forward(
        candidate.network,
        candidate.train_state.params,
        candidate.train_state.state,
        images,
        train=False,
    )
    whole = steps.sums(logits, labels, jnp.ones(len(labels)))
    monkeypatch.setattr(candidates, "EVALUATION_BATCH", 2 * batch)
    candidate = candidate._replace(micro_batches=2)
    sums = loop.evaluate(candidate, candidate.train_state, digits)
    assert float(sums.samples) == len(labels) == 70
    np.testing.assert_array_equal(sums.correct, whole.correct)
    np.testing.assert_allclose(sums.loss, whole.loss, rtol=1e-5)


class NormFree(nnx.Module):
    """Samples do not see one another."""

    def __init__(self, *, rngs, dtype=None):
        self.conv = nnx.Conv(3, 6, (4, 4), strides=4, param_dtype=jnp.float64, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)  # random streams are part of the state

    def features(self, x):
        return self.dropout(jnp.mean(nnx.gelu(self.conv(x)), axis=(1, 2)))


@pytest.mark.parametrize(("batch", "micro_batches"), [(32, 2), (33, 2)])
def test_accumulated_step_equals_the_plain_one(train, batch, micro_batches):
    """For a model without batch norm, of any batch size, with augmentation."""
    config = small_config(head="linear", optimizer="sgd", learning_rate=1.0)

    def flip(key, images):
        mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
        return jnp.where(mirrored, images[:, :, ::-1], images)

    with jax.enable_x64(True):
        candidate = loop.prepare(
            ModelSpec("free", NormFree, 8, 6), make_feed(small_digits()), config
        )
        before = candidate.train_state
        results = []
        for parts in (1, micro_batches):
            optimizer = make_optimizer(config)
            step = steps.make_train_step(candidate.network, optimizer, flip, parts)
            after, loss = jax.jit(step)(before, *train, jnp.arange(batch), jax.random.key(0))
            results.append((after.params, loss))
    assert results[0][0]["backbone"]["conv"]["kernel"].dtype == np.float64
    # The cross-entropy is float32 by design: its rounding, 1e-7, is all that remains.
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before.params, results[1][0])
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_batch_statistics_of_an_accumulated_step_are_the_parts(train, digits):
    """The running mean moves once a part: m² s + m (1 - m) mean_1 + (1 - m) mean_2."""
    config = small_config()
    candidate = loop.prepare(small_spec(), digits, config, micro_batches=2)
    step = steps.make_train_step(candidate.network, make_optimizer(config), None, 2)
    after, _ = jax.jit(step)(candidate.train_state, *train, jnp.arange(32), jax.random.key(0))
    images = candidate.network.preprocess(train[0][:32])
    kernel = candidate.train_state.params["backbone"]["conv"]["kernel"]
    outputs = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    one, two = (jnp.mean(part, axis=(0, 1, 2)) for part in jnp.split(outputs, 2))
    expected = 0.9 * 0.1 * one + 0.1 * two
    found = after.state["backbone"]["norm"]["mean"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_masked_samples_do_not_count_even_if_not_finite():
    logits = jnp.array([[[2.0, 0.0], [jnp.nan, 1.0]]])
    sums = steps.sums(logits, jnp.array([0, 1]), jnp.array([True, False]))
    np.testing.assert_allclose(sums.loss, [np.log(1 + np.exp(-2.0))], rtol=1e-6)
    assert float(sums.samples) == 1
    assert float(sums.correct[0]) == 1


def test_several_probes_average_their_losses(digits, train):
    """Two probes over one backbone: the gradient is the mean of the two probes' gradients."""
    config = small_config(num_probes=2, optimizer="sgd", learning_rate=1.0)
    candidate = loop.prepare(small_spec(), digits, config)
    step = jax.jit(steps.make_train_step(candidate.network, make_optimizer(config)))

    def moved(probes):
        params, state = (
            {**tree, "head": jax.tree.map(lambda a: a[probes], tree["head"])}
            for tree in candidate.train_state[:2]
        )
        before = candidate.train_state._replace(params=params, state=state)
        after, _ = step(before, *train, jnp.arange(32), jax.random.key(0))
        kernel = [t.params["backbone"]["conv"]["kernel"] for t in (before, after)]
        return np.array(kernel[1] - kernel[0])

    mean = (moved(slice(0, 1)) + moved(slice(1, 2))) / 2
    # The difference of two float32 kernels of size 1 carries their rounding, 1e-7.
    np.testing.assert_allclose(moved(slice(None)), mean, rtol=1e-3, atol=1e-6)


def test_bfloat16_trains_with_float32_parameters(digits):
    config = small_config(dtype="bfloat16")
    _, after, loss = one_epoch(loop.prepare(small_spec(), digits, config), digits, config)
    assert np.isfinite(loss)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(after.params))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_another_learning_rate_is_the_same_program(digits, train, optimizer):
    """It is found in the compilation cache; and the rate does what optax's own does."""
    programs, moved = [], []
    for rate in (1e-3, 1e-2):
        config = small_config(optimizer=optimizer, learning_rate=rate)
        candidate = loop.prepare(small_spec(), digits, config)
        step = jax.jit(steps.make_train_step(candidate.network, make_optimizer(config)))
        arguments = (candidate.train_state, *train, jnp.arange(32), jax.random.key(0))
        programs.append(step.lower(*arguments).as_text())
        after, _ = step(*arguments)
        kernels = [t.params["backbone"]["conv"]["kernel"] for t in (candidate.train_state, after)]
        moved.append(np.asarray(kernels[1] - kernels[0]))
    assert programs[0] == programs[1]
    # A first step is proportional to the rate; the float32 kernels of size 1 round to 1e-7.
    np.testing.assert_allclose(moved[1], 10 * moved[0], rtol=1e-3, atol=2e-6)
