"""DenseNet against what Keras's network does."""

from __future__ import annotations

from ncap_jax.zoo.densenet import DenseNet
from tests.support import keras_outputs
from tests.support.published import abstract


def test_stages_features_and_norms_are_keras_own():
    keras_outputs.check_inference("densenet121")


def test_units_append_and_transitions_halve():
    module = abstract(DenseNet, (1, 2, 1, 1))
    assert [unit.norm.num_features for unit in module.blocks[1]] == [48, 80]
    assert [part.norm.num_features for part in module.transitions] == [96, 112, 88]
    assert module.norm.num_features == 76
