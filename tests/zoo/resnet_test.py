"""ResNet v1 and v2 against what Keras's networks do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ncap_jax.zoo.layers import Backbone
from ncap_jax.zoo.resnet import ResNet, ResNetV2
from tests.support import keras_outputs
from tests.support.published import abstract


@pytest.mark.parametrize("name", ["resnet50", "resnet50v2"])
def test_stages_features_and_norms_are_keras_own(name: str):
    keras_outputs.check_inference(name)


@pytest.mark.parametrize(
    ("build", "strided"), [(ResNet, [1, 2, 2, 2]), (ResNetV2, [2, 2, 2, 1])], ids=["v1", "v2"]
)
def test_v1_strides_in_the_first_and_v2_in_the_last_block(
    build: Callable[..., Backbone], strided: list[int]
):
    module = abstract(build, (2, 2, 2, 2))
    first, last = zip(*module.stacks)
    if build is ResNet:
        assert [block.reduce.conv.strides for block in first] == strided
        assert {block.reduce.conv.strides for block in last} == {1}
    else:
        assert {block.stride for block in first} == {1}
        assert [block.stride for block in last] == strided
    # The first block of a stack projects its shortcut, the others add their input.
    assert all(block.shortcut is not None for block in first)
    assert all(block.shortcut is None for block in last)
