"""What a model costs to use: counted against arithmetic by hand, and really timed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from ncap_jax.finetune import steps
from ncap_jax.measure import inference
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS
from tests.support.small import small_spec

SETTING = inference.Setting((8, 8, 3), num_classes=10)


class Flat(nnx.Module):
    """One dense layer on all pixels, whose operations can be counted by hand."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None):
        self.dense = nnx.Linear(8 * 8 * 3, 16, use_bias=False, dtype=dtype, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.dense(x.reshape(len(x), -1))


FLAT = ModelSpec("flat", Flat, input_size=8, feature_width=16, parameters=3072, licence="MIT")


def test_operations_are_those_of_one_scaled_image():
    """Two for every multiplication, and the head's bias; whatever the size of the data's images."""
    expected = 2 * 192 * 16 + 2 * 16 * 10 + 10
    assert inference.flops_per_image(FLAT, SETTING) == expected
    large = dataclasses.replace(SETTING, image_shape=(300, 200, 1))
    assert inference.flops_per_image(FLAT, large) == expected
    more = dataclasses.replace(SETTING, num_classes=20)
    assert inference.flops_per_image(FLAT, more) == expected + 2 * 16 * 10 + 10


def test_a_convolution_counts_what_its_windows_hold():
    spec = small_spec()  # 4x4 windows of 3 channels, at 2x2 places, 12 features
    convolution, head = 2 * 4 * 4 * 3 * 2 * 2 * 12, 2 * 12 * 10
    found = inference.flops_per_image(spec, SETTING)
    assert convolution + head < found < 1.1 * (convolution + head)  # normalisation and the like
    double = inference.flops_per_image(spec, dataclasses.replace(SETTING, input_size=16))
    assert double == pytest.approx(4 * (found - head) + head, rel=0.02)


@pytest.mark.parametrize(
    ("name", "published"),
    # Multiplications with an addition, in millions: the papers on MobileNet and ResNet.
    [("mobilenet", 569), ("mobilenetv2", 300), ("resnet50", 3860)],
)
def test_published_networks_cost_what_their_papers_say(name, published, monkeypatch):
    """What is known of the zoo is looked up, and nothing is traced for it."""
    setting = inference.Setting((224, 224, 3), num_classes=1000)
    monkeypatch.setattr(inference.shapes, "shapes_of", None)
    found = inference.flops_per_image(MODELS[name], setting)
    assert found / 2e6 == pytest.approx(published, rel=0.06)


def test_a_model_of_the_zoo_is_counted_at_another_size_or_under_another_architecture():
    spec = MODELS["tiny_depthwise"]
    own = inference.flops_per_image(spec, SETTING)
    double = dataclasses.replace(SETTING, input_size=2 * spec.input_size)
    assert inference.flops_per_image(spec, double) == pytest.approx(4 * own, rel=0.05)
    other = dataclasses.replace(FLAT, name="tiny_depthwise")
    assert inference.flops_per_image(other, SETTING) == inference.flops_per_image(FLAT, SETTING)


def test_a_model_in_memory_is_not_kept_for_its_figures():
    module = Flat(rngs=nnx.Rngs(0))
    spec = dataclasses.replace(FLAT, name="here", build_pretrained=lambda **_: module)
    before = inference._counted.cache_info().currsize
    assert inference.flops_per_image(spec, SETTING) == inference.flops_per_image(FLAT, SETTING)
    assert inference._counted.cache_info().currsize <= before + 1  # FLAT's own


def test_time_and_memory_are_those_of_the_batch():
    one, many = (inference.speed(FLAT, SETTING, batch) for batch in inference.BATCHES)
    assert (one.batch, many.batch) == (1, 64)
    assert 0 < one.seconds < 1
    assert many.images_per_second == 64 / many.seconds
    weights = 4 * (192 * 16 + 16 * 10 + 10)
    for speed in (one, many):
        # The weights, the images and the logits, and what is kept in between.
        assert speed.memory >= weights + speed.batch * (192 + 4 * 10)
        assert speed.memory < weights + speed.batch * 30_000


def test_what_is_known_is_told_although_something_breaks():
    def broken(**_):
        raise ValueError("no such layer")

    found = inference.cost(dataclasses.replace(FLAT, build=broken), SETTING, measured=True)
    assert (found.parameters, found.licence, found.flops, found.speeds) == (3072, "MIT", None, ())
    assert found.problem == "ValueError: no such layer"


def test_timing_what_breaks_keeps_the_count(monkeypatch):
    monkeypatch.setattr(inference, "BATCHES", (-1,))
    found = inference.cost(FLAT, SETTING, measured=True)
    assert found.flops == inference.flops_per_image(FLAT, SETTING)
    assert found.problem
    assert inference.cost(FLAT, SETTING).speeds == ()


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [(10.0, 1), (0.1, 3), (0.001, inference.MOST_CALLS)],
)
def test_a_few_calls_are_timed_after_the_first(seconds, calls):
    now, called = [0.0], []

    def call():
        called.append(1)
        now[0] += seconds if len(called) > 1 else 99.0

    assert inference.median_seconds(call, lambda: now[0]) == pytest.approx(seconds)
    assert len(called) == 1 + calls


def test_drawn_weights_keep_activations_of_one_size():
    """No numbers so small that a processor would be slow with them."""

    class Deep(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None):
            self.layers = nnx.List([nnx.Linear(64, 64, rngs=rngs) for _ in range(40)])
            self.first = nnx.Linear(192, 64, rngs=rngs)

        def features(self, x: jax.Array) -> jax.Array:
            x = self.first(x.reshape(len(x), -1))
            for layer in self.layers:
                x = layer(x)
            return x

    spec = ModelSpec("deep", Deep, input_size=8, feature_width=64, preprocessing="unit")
    model = inference._model(spec, SETTING)
    params, state = inference._drawn(model.params), inference._drawn(model.state)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    logits, _ = steps.forward(model.network, params, state, images, train=False)
    size = float(np.abs(np.asarray(logits)).mean())
    assert math.isfinite(size)
    assert 1e-3 < size < 1e6
