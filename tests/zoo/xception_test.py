"""Xception against what Keras's network does."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.zoo.xception import Block
from tests.support import keras_outputs


def test_stages_features_and_norms_are_keras_own():
    keras_outputs.check_inference("xception")


def test_block_2_has_no_relu_of_its_own():
    blocks = [Block(3, (3,), number, rngs=nnx.Rngs(0)) for number in (2, 5)]
    x = -jnp.ones((1, 4, 4, 3))
    for block in blocks:
        block.eval()
    np.testing.assert_array_equal(blocks[1](x), x)  # nothing passes the ReLU, the shortcut stays
    assert np.any(blocks[0](x) != x)
