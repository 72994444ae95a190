"""The static prior: what published figures say of models, whatever the data are.

    v = top-1 on ImageNet, in percent; of weights trained on CIFAR-10 top-1 there, minus 100;
        minus infinity of weights drawn at random; NaN where nothing is published

Only the order counts. It is the cheapest guess, the same for every data set, and the rival that
every method has to beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ncap_jax.types import ModelSpec
from ncap_jax.zoo import catalogue


def static_prior(specs: Sequence[ModelSpec]) -> list[float]:
    """The value of every model, higher is better; see the module."""
    return list(map(_value, specs))


def _value(spec: ModelSpec) -> float:
    if catalogue.is_random(spec):
        return -math.inf
    known = catalogue.facts(spec)
    if known.accuracy is None:
        return math.nan
    # A hundred points below: what CIFAR-10 teaches helps less than ImageNet does.
    return known.accuracy - (0.0 if known.data == catalogue.IMAGENET else 100.0)
