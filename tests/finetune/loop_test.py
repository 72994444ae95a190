"""The epoch loop: records, reproducibility, divergence, and beta_eff at convergence."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from ncap_jax import data
from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import loop, measure
from ncap_jax.types import NETWORK_STRENGTHS, STRENGTHS, ModelSpec
from ncap_jax.zoo import functional
from ncap_jax.zoo.capacitance import network_beta_eff
from tests.small import small_config, small_digits, small_spec


@pytest.fixture(scope="module")
def digits():
    return make_feed(small_digits())


def timeless(trajectory):
    return [dataclasses.replace(r, seconds=0.0, measure_seconds=0.0) for r in trajectory.records]


@pytest.mark.filterwarnings("ignore:small. no whole-network")
@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
def test_records(digits, head):
    trajectory = loop.finetune(small_spec(), digits, small_config(head=head))
    assert [r.epoch for r in trajectory.records] == [0, 1, 2]
    assert trajectory.epochs == 2
    assert trajectory.status == "ok"
    assert trajectory.records[0].running_loss is None
    for record in trajectory.records:
        assert 0 <= record.train_accuracy <= 1
        assert 0 <= record.validation_accuracy <= 1
        assert record.seconds >= record.measure_seconds > 0
        if head == "linear":
            continue
        assert set(record.beta_eff) == set(STRENGTHS)
        assert all(len(values) == 1 for values in record.beta_eff.values())
        assert all(
            status in ("ok", "ill_conditioned")
            for statuses in record.beta_eff_status.values()
            for status in statuses
        )
    if head != "probe":  # two epochs below a frozen random probe may not suffice
        assert trajectory.records[-1].train_loss < trajectory.records[0].train_loss


def test_same_seed_same_trajectory(digits):
    config = small_config(seed=5)
    one = loop.finetune(small_spec(), digits, config)
    two = loop.finetune(small_spec(), digits, config)
    assert timeless(one) == timeless(two)
    other = loop.finetune(small_spec(), digits, small_config(seed=6))
    assert timeless(other) != timeless(one)


def test_observed_epochs_only_leaves_the_training_as_it_is(digits):
    config = small_config(epochs=3)
    full = list(loop.run(loop.prepare(small_spec(), digits, config), digits, config))
    some = list(loop.run(loop.prepare(small_spec(), digits, config), digits, config, {0, 3}))
    assert [r.epoch for r in some] == [0, 3]
    assert some[1].validation_loss == full[3].validation_loss


def test_one_value_per_probe(digits):
    trajectory = loop.finetune(small_spec(), digits, small_config(num_probes=3, epochs=1))
    for strength in STRENGTHS:
        values = trajectory.records[-1].beta_eff[strength]
        assert len(values) == len(set(values)) == 3
        assert trajectory.beta_eff(strength)[-1] == pytest.approx(np.mean(values))


@pytest.mark.filterwarnings("ignore:small. no whole-network")
def test_divergence_is_a_status(digits):
    config = small_config(head="linear", optimizer="sgd", learning_rate=1e30, epochs=4)
    trajectory = loop.finetune(small_spec(), digits, config)
    assert trajectory.status == "diverged"
    assert "not finite after epoch" in trajectory.message
    assert "smaller learning_rate" in trajectory.message
    assert trajectory.epochs < 4


class Dense(nnx.Module):
    """Two dense layers on the flattened pixels: can learn any small training set by heart."""

    def __init__(self, *, rngs, dtype=None):
        self.one = nnx.Linear(192, 128, dtype=dtype, rngs=rngs)
        self.two = nnx.Linear(128, 64, dtype=dtype, rngs=rngs)

    def features(self, x):
        return nnx.relu(self.two(nnx.relu(self.one(x.reshape(len(x), -1)))))


class Broken(Dense):
    """Whose weights are not numbers."""

    def features(self, x):
        return super().features(x) * jnp.nan


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float32", "preprocessing"), ("bfloat16", 'dtype="float32"')]
)
def test_divergence_before_training_is_not_the_learning_rate_s(digits, dtype, remedy):
    spec = ModelSpec("broken", build=Broken, input_size=8, feature_width=64)
    trajectory = loop.finetune(spec, digits, small_config(dtype=dtype, epochs=1))
    assert (trajectory.status, trajectory.epochs) == ("diverged", 0)
    assert "before any training" in trajectory.message
    assert remedy in trajectory.message


@pytest.mark.parametrize(("head", "vanishes"), [("trainable_probe", True), ("probe", False)])
def test_beta_eff_vanishes_at_zero_loss(head, vanishes):
    """Theorem 1 of the paper: at zero loss g -> 0, hence P -> 0 and beta_eff -> 0.

    A frozen probe with batch norm bounds the logits, so its loss stays above 0 and so does
    beta_eff: the value at beta_eff = 0 is an extrapolation there, never a limit that is reached.
    """
    few = make_feed(small_digits(train=60, validation=60))
    config = small_config(
        head=head, epochs=60, batch_size=60, learning_rate=3e-3, probe_widths=(64, 64, 64)
    )
    spec = ModelSpec("dense", build=Dense, input_size=8, feature_width=64)
    candidate = loop.prepare(spec, few, config)
    first, last = loop.run(candidate, few, config, {0, 60})
    assert first.train_loss > 1
    assert (last.train_loss < 0.05) == vanishes
    for strength in ("signed", "absolute", "squared"):
        assert (abs(last.beta_eff[strength][0]) < 0.05) == vanishes


def test_input_size_is_overridable(digits):
    """Twice the side: four times the pixels, another trajectory, the same feature width."""
    large = loop.finetune(small_spec(), digits, small_config(input_size=16, epochs=1))
    native = loop.finetune(small_spec(), digits, small_config(epochs=1))
    assert large.status == "ok"
    assert large.records[-1].train_loss != native.records[-1].train_loss


def test_streamed_equals_resident(tmp_path):
    """Streaming changes where the images lie, not what is learnt."""
    dataset = small_digits()
    for part, images, labels in (
        ("train", dataset.images, dataset.labels),
        ("validation", dataset.validation_images, dataset.validation_labels),
    ):
        for number, (image, label) in enumerate(zip(images, labels)):
            path = tmp_path / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    results = [
        timeless(
            loop.finetune(
                small_spec(),
                make_feed(data.load_dataset(str(tmp_path), image_size=8, stream=stream)),
                small_config(),
            )
        )
        for stream in (False, True)
    ]
    assert results[0] == results[1]


class Deep(nnx.Module):
    """Four weight layers with the head: the fewest that whole networks are defined for."""

    def __init__(self, *, rngs, dtype=None):
        conv = partial(nnx.Conv, kernel_size=(3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.one, self.two, self.three = conv(3, 6), conv(6, 8), conv(8, 8)
        self.norm = nnx.BatchNorm(8, dtype=dtype, rngs=rngs)

    def features(self, x):
        x = nnx.relu(self.norm(self.three(nnx.relu(self.two(nnx.relu(self.one(x)))))))
        return jnp.mean(x, axis=(1, 2))


class DeepClassifier(nnx.Module):
    def __init__(self, features, head):
        self.backbone, self.head = features, head

    def __call__(self, x):
        return self.head(self.backbone.features(x))


def test_ordinary_fine_tuning_records_the_whole_network(digits):
    """The recorded values are those of the public function on the same module and samples."""
    spec = ModelSpec("deep", Deep, input_size=8, feature_width=8)
    config = small_config(head="linear", epochs=1)
    candidate = loop.prepare(spec, digits, config)
    assert len(candidate.network_measurement) == 32
    record = loop.observe(candidate, candidate.train_state, digits, config)
    params, state = candidate.train_state[:2]
    first = jax.tree.map(lambda leaf: leaf[0], params["head"])
    model = DeepClassifier(
        functional.merge(candidate.network.backbone, params["backbone"], state["backbone"]),
        functional.merge(candidate.network.head, first, {}),
    )
    images, labels = digits.subset(candidate.network_measurement)
    inputs = candidate.network.preprocess(images)
    for strength in NETWORK_STRENGTHS:
        expected = network_beta_eff(model, inputs, labels, strength)
        # The same float32 arithmetic in another program: rounding only, see docs/numerics.md.
        assert record.beta_eff[strength][0] == pytest.approx(float(expected), rel=1e-4)
        assert record.beta_eff_status[strength] == (expected.status,)


def test_a_network_that_is_too_short_is_fine_tuned_all_the_same(digits):
    with pytest.warns(UserWarning, match="small: no whole-network beta_eff: the longest path"):
        trajectory = loop.finetune(small_spec(), digits, small_config(head="linear"))
    assert trajectory.status == "ok"
    assert all(not record.beta_eff for record in trajectory.records)


@pytest.mark.parametrize(
    ("num_train", "measure_size", "samples"),
    [(10, 2048, 10), (500, 2048, 32), (10_000, 2048, 250), (90_000, 2048, 2048)],
)
def test_how_many_samples_measure_a_network(num_train, measure_size, samples):
    assert measure.network_samples(num_train, measure_size) == samples
