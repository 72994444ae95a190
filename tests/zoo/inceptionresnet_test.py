"""Inception-ResNet v2 against what Keras's network does."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo.inception import Maker, Step
from ncap_jax.zoo.inceptionresnet import ResidualBranches
from tests.support import keras_outputs


def test_stages_features_and_norms_are_keras_own():
    keras_outputs.check_inference("inceptionresnetv2")


@pytest.mark.parametrize("activate", [True, False])
def test_a_block_adds_its_scaled_residual(activate: bool):
    make = Maker(rngs=nnx.Rngs(0))
    block = ResidualBranches(
        make, 3, ((Step(2),),), 0.5, "block", activate=activate, rngs=nnx.Rngs(0)
    )
    block.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 3)), jnp.float32)
    expected = x + 0.5 * block.up(block.branches(x))
    np.testing.assert_allclose(
        block(x), np.maximum(expected, 0) if activate else expected, rtol=1e-6, atol=1e-6
    )
