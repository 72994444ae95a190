"""The monitor in loops that are not ours: NNX, plain functions, Keras."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.capacitance.beta_eff import probe_beta_eff
from ncap_jax.finetune import evaluation, loop
from ncap_jax.measure import training
from ncap_jax.measure.network import network_beta_eff
from ncap_jax.types import NETWORK_STRENGTHS, STRENGTHS
from ncap_jax.zoo import load_model, probe
from tests.support.small import (
    WIDTHS,
    SmallNet,
    cheap_init,
    small_config,
    small_digits,
    small_feed,
    small_spec,
)


class Classifier(nnx.Module):
    """Four dense layers and batch norm: the smallest network that has a beta_eff of its own."""

    def __init__(self, *, rngs):
        dense = partial(nnx.Linear, kernel_init=cheap_init, rngs=rngs)
        self.hidden = nnx.List(dense(i, o) for i, o in itertools.pairwise([192, 16, 12, 12]))
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.output = dense(12, 10)

    def features(self, x):
        x = nnx.relu(self.norm(self.hidden[0](x.reshape(len(x), -1))))
        return nnx.relu(self.hidden[2](nnx.relu(self.hidden[1](x))))

    def __call__(self, x):
        return self.output(self.features(x))


@pytest.fixture(scope="module")
def samples():
    digits = small_digits(train=60)
    return (digits.images / 127.5 - 1).astype(np.float32), digits.labels


def arrays(model):
    return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))


def test_every_step_of_a_loop_is_measured_and_logged(samples):
    model, logged = Classifier(rngs=nnx.Rngs(0)), []
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    monitor = ncap.CapacitanceMonitor(
        *samples, every=2, probe_widths=WIDTHS, log=lambda *entry: logged.append(entry)
    )
    x, y = map(jnp.asarray, samples)

    @nnx.jit
    def train_step(model, optimizer):
        def loss_of(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss_of)(model))

    for step in range(4):
        model.train()
        train_step(model, optimizer)
        measurement = monitor(model, step)
        assert (measurement is None) == (step % 2 == 1)
    assert [m.step for m in monitor.history] == [0, 2]
    assert set(monitor.history[0].values) == set(STRENGTHS)
    assert monitor.history[0].values != monitor.history[1].values
    assert logged[0] == ("beta_eff/signed", monitor.history[0].values["signed"], 0)
    assert len(logged) == 2 * len(STRENGTHS)


@pytest.mark.parametrize("of", ["probe", "network"])
def test_the_model_is_only_looked_at(samples, of):
    model = Classifier(rngs=nnx.Rngs(0))
    model.train()
    before = arrays(model)
    monitor = ncap.CapacitanceMonitor(*samples, of=of, probe_widths=WIDTHS)
    monitor(model, 0)
    jax.tree.map(np.testing.assert_array_equal, before, arrays(model))
    assert model.norm.use_running_average is False


def test_the_probe_is_measured_as_the_epoch_loop_does():
    """The same model, probe and samples through both: the same numbers."""
    digits, config = small_digits(), small_config(measure_size=60)
    tuning = training.start(small_spec(), small_feed(), config)
    candidate = tuning.candidate
    first = evaluation.observe(tuning, loop.starting_state(tuning, None, None))
    backbone = load_model(small_spec(), weights=None, seed=config.seed)
    inputs = np.asarray(candidate.network.preprocess(digits.images[candidate.measurement]))
    monitor = ncap.CapacitanceMonitor(
        inputs,
        digits.labels[candidate.measurement],
        probe_widths=WIDTHS,
        num_classes=10,
        batch_size=25,
    )
    measured = monitor(backbone, 0)
    for strength in STRENGTHS:
        # Float32 features from batches of another size: rounding, grown by the condition number.
        assert measured.values[strength] == pytest.approx(first.beta_eff[strength][0], rel=1e-3)


def test_the_whole_network_is_the_public_function(samples):
    model = Classifier(rngs=nnx.Rngs(0))
    monitor = ncap.CapacitanceMonitor(*samples, of="network", batch_size=25)
    measured = monitor(model, 0)
    assert set(measured.values) == set(NETWORK_STRENGTHS)
    for strength in NETWORK_STRENGTHS:
        expected = network_beta_eff(model, *samples, strength=strength)
        assert measured.values[strength] == pytest.approx(float(expected), rel=1e-4)
        assert measured.statuses[strength] == expected.status


def test_any_function_will_do(samples):
    """Linen, Haiku, plain JAX: a function of a batch that returns features."""
    inputs, labels = samples
    kernel = np.random.default_rng(0).normal(size=(192, 12)).astype(np.float32)

    def features(x):
        return np.maximum(x.reshape(len(x), -1) @ kernel, 0)

    monitor = ncap.CapacitanceMonitor(
        inputs, labels, strengths=["absolute"], probe_widths=WIDTHS, probe_seed=3
    )
    measured = monitor(features, 7)
    _, params, _ = probe.make_probes(12, 10, WIDTHS, seed=3)
    weights = probe.probe_arrays(jax.tree.map(lambda leaf: leaf[0], params))
    strengths = ("absolute",)
    expected = probe_beta_eff(*weights, features(inputs), labels, strengths)["absolute"]
    assert measured.values == {"absolute": pytest.approx(float(expected), rel=1e-5)}


def test_in_keras_fit(samples):
    """As the guide writes it, in a LambdaCallback."""
    inputs, labels = samples
    image = keras.Input((8, 8, 3))
    features = keras.layers.Dense(12, activation="relu")(keras.layers.Flatten()(image))
    logits = keras.layers.Dense(10)(features)
    model, body = keras.Model(image, logits), keras.Model(image, features)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    monitor = ncap.CapacitanceMonitor(inputs, labels, probe_widths=WIDTHS)
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: monitor(lambda x: body(x, training=False), epoch)
    )
    model.fit(inputs, labels, epochs=2, verbose=0, callbacks=[callback])
    assert [m.step for m in monitor.history] == [0, 1]
    assert monitor.history[0].values != monitor.history[1].values


def test_divergence_is_a_status(samples):
    model = Classifier(rngs=nnx.Rngs(0))
    monitor = ncap.CapacitanceMonitor(*samples, of="network", strengths=["absolute"])
    assert monitor(model, 0).statuses == {"absolute": "ok"}
    model.output.kernel[...] = jnp.full((12, 10), jnp.nan)
    broken = monitor(model, 1)
    assert broken.statuses == {"absolute": "non_finite"}
    assert np.isnan(broken.values["absolute"])


@pytest.mark.parametrize(
    ("changes", "kind", "cause", "remedy"),
    [
        ({"of": "prob"}, errors.ConfigError, "unknown of 'prob'", "Did you mean probe"),
        (
            {"every": 0},
            errors.ConfigError,
            "every=0, batch_size=256",
            "Give whole numbers of at least 1",
        ),
        ({"strengths": ["absolut"]}, errors.ConfigError, "unknown strength", "absolute"),
        ({"of": "network", "strengths": ["total"]}, errors.ConfigError, "'total'", "signed"),
        ({"probe_widths": (8, 8)}, errors.ConfigError, "probe_widths=(8, 8)", "at least 3"),
        ({"num_classes": 5}, errors.KernelError, "5 outputs", ""),
        ({"inputs": np.zeros((4, 8, 8, 3), np.uint8)}, errors.KernelError, "uint8", ""),
        ({"labels": np.eye(60)}, errors.KernelError, "", "one-hot"),
    ],
)
def test_bad_options_are_refused(samples, changes, kind, cause, remedy):
    options = {"inputs": samples[0], "labels": samples[1], **changes}
    with pytest.raises(kind) as error:
        ncap.CapacitanceMonitor(**options)
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    assert error.value.remedy


def test_a_model_without_features_is_refused(samples):
    monitor = ncap.CapacitanceMonitor(*samples)
    with pytest.raises(errors.ModelError) as error:
        monitor(lambda x: x, 0)
    assert error.value.cause == "the model returns (8, 8, 3) for a sample instead of (width,)"
    assert error.value.remedy == "Give a function that returns features (batch, width)"


def test_a_model_of_another_width_needs_its_own_monitor(samples):
    monitor = ncap.CapacitanceMonitor(*samples, probe_widths=WIDTHS)
    monitor(SmallNet(12, rngs=nnx.Rngs(0)), 0)
    with pytest.raises(errors.ModelError) as error:
        monitor(SmallNet(8, rngs=nnx.Rngs(0)), 1)
    assert error.value.cause == "the model returns 8 features, but 12 at the first call"
    assert error.value.remedy == "Make a monitor for each model"


def test_a_backbone_alone_is_no_network(samples):
    monitor = ncap.CapacitanceMonitor(*samples, of="network")
    with pytest.raises(errors.ModelError) as error:
        monitor(SmallNet(rngs=nnx.Rngs(0)), 0)
    assert error.value.cause == "SmallNet is not an nnx.Module that can be called"
    assert error.value.remedy == "Give the whole classifier, or measure with a probe"
