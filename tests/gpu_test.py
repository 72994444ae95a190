"""What only an accelerator can show: its float32 against float64 on the CPU, and its own epoch.

    python -m pytest -m gpu

`NCAP_GPU_TESTS_ON_CPU=1` runs them on the CPU too, which shows that the tests themselves work.
"""

from __future__ import annotations

import contextlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax
from ncap_jax.capacitance import network
from ncap_jax.capacitance.beta_eff import from_state, mlp_beta_eff
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import prepare
from ncap_jax.measure.network import split_model
from ncap_jax.ops.convolutions import convolution
from ncap_jax.types import STRENGTHS
from ncap_jax.zoo import MODELS, load_model
from ncap_jax.zoo.layers import moments
from tests.support.nets import random_net
from tests.support.small import deep_spec, small_config, small_digits, small_spec

pytestmark = pytest.mark.gpu


@contextlib.contextmanager
def exact():
    """float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.mark.parametrize("strength", STRENGTHS)
def test_probe_kernel_in_float32(strength):
    net = random_net(0, (256, 128, 64, 32, 10), 512)
    kernels = [k * np.sqrt(2 / len(k)) for k in net.kernels]  # keeps the logits of order one

    def run(dtype):
        arrays = (kernels, net.biases, net.inputs)
        return mlp_beta_eff(
            *jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays), net.labels, strength=strength
        )

    with exact():
        wanted = run(jnp.float64)
    found = run(jnp.float32)
    # docs/numerics.md: 80 eps of float32 times the condition, which TF32 products would exceed.
    tolerance = 1e-5 * max(float(wanted.condition), 1.0)
    np.testing.assert_allclose(float(found.value), float(wanted.value), rtol=tolerance)


class Classifier(nnx.Module):
    """An embedded model with a linear head on top."""

    def __init__(self, name: str):
        self.backbone = load_model(name, weights="pretrained")
        self.head = nnx.Linear(MODELS[name].feature_width, 10, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.backbone.features(x))


@pytest.mark.parametrize("name", ["tiny_depthwise", "tiny_convnext", "tiny_resnet"])
def test_whole_network_kernel_in_float32(name):
    apply, *arrays = split_model(Classifier(name))
    images = np.random.default_rng(1).uniform(size=(8, 32, 32, 3))
    labels = np.arange(8) % 10

    def run(dtype):
        def cast(leaf):
            return jnp.asarray(leaf, dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        state = network.measure(apply, *jax.tree.map(cast, (*arrays, images)), labels)
        return from_state(state)

    with exact():
        wanted = run(jnp.float64)
    for strength, found in run(jnp.float32).items():
        # Some twenty layers of float32 sums, and now and then a unit on the other side of its kink.
        tolerance = 1e-3 * max(float(wanted[strength].condition), 1.0)
        value = float(wanted[strength].value)
        np.testing.assert_allclose(float(found.value), value, rtol=tolerance)


def test_depthwise_convolution_and_its_gradients():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 9, 10, 16)), rng.normal(size=(3, 3, 1, 16))

    def run(dtype):
        def f(x, w):
            options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 16}
            y = convolution(x, w, (2, 2), "SAME", precision="highest", **options)
            return jnp.sum(y**2), y

        (_, y), gradients = jax.value_and_grad(f, (0, 1), has_aux=True)(
            jnp.asarray(x, dtype), jnp.asarray(w, dtype)
        )
        return [np.asarray(a, np.float64) for a in (y, *gradients)]

    with exact():
        wanted = run(jnp.float64)
    for a, b in zip(run(jnp.float32), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_batch_norm_s_statistics_in_one_pass(mean):
    x = np.random.default_rng(0).normal(mean, 1, (16, 9, 9, 24)).astype(np.float32)
    found = jax.jit(partial(moments, once=True))(jnp.asarray(x))
    exact = x.astype(np.float64)
    # docs/numerics.md: what a sum of as many terms loses, times what the shift can cost.
    tolerance = np.finfo(np.float32).eps * np.sqrt(16 * 81) * (1 + 16)
    np.testing.assert_allclose(found[0], exact.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], exact.var((0, 1, 2)), rtol=tolerance)


# docs/numerics.md; in shares of the largest entry of all gradients, because that of a bias below a
# batch norm is rounding alone.
STEP_TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2}


@pytest.mark.parametrize("dtype", STEP_TOLERANCE)
def test_a_training_step_and_its_gradient(dtype):
    feed = make_feed(small_digits())
    images, labels = (np.asarray(a) for a in feed.subset(np.arange(32)))

    def candidate(dtype):
        return prepare(deep_spec(), feed, small_config(head="linear", dtype=dtype))

    def run(network, params, state):
        value_and_gradient = jax.jit(
            jax.value_and_grad(steps.loss_of_batch, has_aux=True), static_argnums=2
        )
        (loss, _), gradient = value_and_gradient(params, {}, network, state, (images, labels))
        return jax.tree.map(lambda a: np.asarray(a, np.float64), (loss, gradient))

    ours = candidate(dtype)
    found = run(ours.network, *ours.train_state[:2])
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), ours.train_state[:2])
    with exact():
        wanted = run(candidate("float64").network, *arrays)
    assert found[0] == pytest.approx(wanted[0], rel=STEP_TOLERANCE[dtype])
    gradients, exactly = (jax.tree.leaves(both[1]) for both in (found, wanted))
    tolerance = STEP_TOLERANCE[dtype] * max(np.abs(b).max() for b in exactly)
    for a, b in zip(gradients, exactly, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_whole_network_beta_eff_in_batches():
    apply, params, constants = split_model(Classifier("tiny_depthwise"))
    images = np.random.default_rng(1).uniform(size=(8, 32, 32, 3)).astype(np.float32)
    labels = np.arange(8) % 10

    measure = jax.jit(partial(network.measure, apply))

    def sums(samples):
        return measure(params, constants, images[samples], labels[samples])

    whole = from_state(sums(slice(0, 8)))
    parts = jax.tree.map(jnp.add, sums(slice(0, 4)), sums(slice(4, 8)))
    for strength, found in from_state(parts).items():
        tolerance = 1e-3 * max(float(whole[strength].condition), 1.0)
        np.testing.assert_allclose(float(found.value), float(whole[strength].value), rtol=tolerance)


def test_a_mesh_of_one_device_changes_nothing():
    data = small_digits()
    alone, mesh = (
        ncap_jax.rank_models(
            [small_spec()], data, small_config(mesh=mesh), show_progress=False
        ).trajectories[0]
        for mesh in (None, "data:1")
    )
    for name in ("train_loss", "validation_loss"):
        # Another program: products in TF32 by other algorithms, which two epochs of Adam amplify.
        np.testing.assert_allclose(mesh.series(name), alone.series(name), rtol=2e-2)


def test_the_scanned_epoch_equals_single_steps():
    config = small_config(optimizer="sgd", learning_rate=0.01)
    feed = make_feed(small_digits())
    (chunk,) = feed.train(0, 1, 32)
    keys = jax.random.split(jax.random.key(0), len(chunk.indices))
    results = []
    for scan in (True, False):
        candidate = prepare(small_spec(), feed, config)
        state, losses = steps.train_steps(
            candidate.program, candidate.train_state, chunk, keys, scan=scan
        )
        results.append((state.params, np.asarray(losses)))
    # Products in TF32, 1e-3, may be taken by other algorithms in the two programs.
    chex.assert_trees_all_close(*results, rtol=5e-3, atol=5e-3)


def test_a_seed_repeats():
    models = ["tiny_plain_barely", "tiny_resnet"]
    data = ncap_jax.load_dataset("digits", max_train=128, max_validation=100)
    config = ncap_jax.RankConfig(epochs=2, head="linear", seed=3)

    def rank():
        ranking = ncap_jax.rank_models(models, data, config, show_progress=False)
        return {t.model: t.series("train_loss") for t in ranking.trajectories}

    first, second = rank(), rank()
    for name, losses in first.items():
        assert np.all(np.isfinite(losses))
        # Sums by atomic additions differ in the last bits, which two epochs of Adam amplify.
        np.testing.assert_allclose(second[name], losses, rtol=2e-2)


def test_bfloat16_fine_tuning_learns():
    data = ncap_jax.load_dataset("digits", max_train=256, max_validation=200)
    config = ncap_jax.RankConfig(epochs=3, head="linear", dtype="bfloat16")
    ranking = ncap_jax.rank_models(["tiny_resnet"], data, config, show_progress=False)
    losses = ranking.trajectories[0].series("train_loss")
    assert losses[-1] < 0.8 * losses[0]
