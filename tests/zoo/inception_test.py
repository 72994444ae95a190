"""Inception v3 against what Keras's network does; branches in Keras's order of making."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ncap_jax.zoo.inception import Branches, Maker, Pool, Step
from tests.support import keras_outputs


def test_stages_features_and_norms_are_keras_own():
    keras_outputs.check_inference("inceptionv3")


def test_convolutions_are_numbered_in_the_order_of_making():
    make = Maker(dtype=None, rngs=nnx.Rngs(0))
    branches = ((Step(4),), (Pool("average"), Step(5), Step(6, (1, 3))), (Pool("max"),))
    first = Branches(make, 3, branches[:2])
    assert [conv.conv.name for branch in first.branches for conv in branch] == [
        "conv2d_0",
        "conv2d_1",
        "conv2d_2",
    ]
    assert first.branches[1][1].norm.name == "batch_normalization_2"
    assert first.width == 4 + 6
    y = nnx.eval_shape(lambda m, x: m(x), first, jax.ShapeDtypeStruct((1, 9, 9, 3), jnp.float32))
    assert y.shape == (1, 9, 9, 10)
    second = Branches(make, 3, branches[2:])
    assert second.width == 3
    assert second(jnp.ones((1, 9, 9, 3))).shape == (1, 4, 4, 3)
