"""The static prior: published accuracy, and where there is none."""

from __future__ import annotations

import dataclasses
import math

from ncap_jax.predictor.static_prior import static_prior
from ncap_jax.zoo import MODELS


def test_imagenet_before_cifar_before_random_and_nothing_else_is_known():
    own = dataclasses.replace(MODELS["resnet50"], weights="mine.safetensors")
    drawn = dataclasses.replace(MODELS["resnet50"], weights="random")
    names = ("vgg16", "densenet201", "cifar_resnet56", "tiny_plain")
    values = static_prior([*map(MODELS.__getitem__, names), own, drawn])
    vgg, dense, cifar, tiny, unknown, random = values
    assert dense > vgg > 0 > cifar > tiny > random == -math.inf
    assert math.isnan(unknown)
