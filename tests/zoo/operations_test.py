"""The operations that are written down are those that XLA counts."""

from __future__ import annotations

import pytest

from ncap_jax.measure import inference
from ncap_jax.zoo import MODELS
from ncap_jax.zoo.operations import FLOPS

# What another version of JAX may count in another way: not the products, which are nearly all.
TOLERANCE = 0.01
QUICK = ("tiny_depthwise", "tiny_plain_barely", "alexnet")


def test_every_model_of_the_zoo_is_there():
    assert list(FLOPS) == list(MODELS)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_they_are_counted_alike(name):
    spec = MODELS[name]
    found, width = inference.count(spec, spec.input_size)
    assert found == pytest.approx(FLOPS[name], rel=TOLERANCE)
    assert width == spec.feature_width
