"""VGG against what Keras's network does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.zoo.vgg import VGG
from tests.support import keras_outputs
from tests.support.published import abstract


def test_stages_and_features_are_keras_own():
    keras_outputs.check_inference("vgg16")


def test_depths_are_numbers_of_convolutions():
    module = abstract(VGG, (1, 2, 1, 1, 1))
    assert [len(block) for block in module.blocks] == [1, 2, 1, 1, 1]
    assert module.blocks[1][1].name == "block2_conv2"
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    stages = nnx.eval_shape(lambda m, x: m.stages(x), module, x)
    assert [stage.shape[1:] for stage in stages.values()] == [
        (32, 32, 64),
        (16, 16, 128),
        (8, 8, 256),
        (4, 4, 512),
        (2, 2, 512),
    ]
    assert np.prod(module.blocks[0][0].kernel.shape) == 3 * 3 * 3 * 64
