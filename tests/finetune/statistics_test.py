"""Running averages keep up with short runs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import batch_norm_memory
from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import loop, statistics
from ncap_jax.zoo import functional, layers
from tests.small import SmallNet, small_config, small_digits, small_spec


class Nested(nnx.Module):
    """Batch norm of Keras's momentum in a list, of MobileNetV2's in a submodule, and PyTorch's."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([layers.BatchNorm(3, name="keras", rngs=rngs)])
        self.inner = nnx.Sequential(nnx.BatchNorm(3, momentum=0.999, rngs=rngs))
        self.torch = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.fast = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [0.9, 0.9]),  # never shorter than PyTorch's
        (8, [0.9, 0.9]),
        (39, [0.95, 0.95]),  # 1 - 2 / 40
        (780, [0.99, 1 - 2 / 781]),  # never longer than published
        (10**6, [0.99, 0.999]),
    ],
)
def test_the_momentum_spans_an_epoch(steps, expected):
    module = Nested(rngs=nnx.Rngs(0))
    statistics.limit_memory(module, steps)
    found = [module.blocks[0].momentum, module.inner.layers[0].momentum]
    assert found == pytest.approx(expected, abs=1e-12)
    assert (module.torch.momentum, module.fast.momentum) == (0.9, 0.5)


class Slow(SmallNet):
    """As published with MobileNetV2."""

    def __init__(self, *, rngs: nnx.Rngs, dtype=None):
        super().__init__(rngs=rngs, dtype=dtype)
        self.norm.momentum = 0.999


def test_a_run_does_not_keep_the_statistics_of_pretraining():
    """What a training step adds to the running mean: (1 - momentum) of the batch's, by hand."""
    digits = make_feed(small_digits())
    config = small_config(head="probe", batch_size=96)  # one step an epoch: momentum 0.9
    spec = dataclasses.replace(small_spec(), build=Slow)
    candidate = loop.prepare(spec, digits, config)
    network, images = candidate.network, digits.subset(np.arange(96))[0]
    params, state, _ = candidate.train_state
    backbone = functional.merge(network.backbone, params["backbone"], state["backbone"])
    convolved = backbone.conv(network.preprocess(images))
    batch = np.asarray(jnp.mean(convolved, axis=(0, 1, 2)))
    before = np.array(candidate.train_state.state["backbone"]["norm"]["mean"])
    after, _ = loop.train_epoch(candidate, candidate.train_state, digits, config, epoch=1)
    moved = np.asarray(jax.device_get(after.state["backbone"]["norm"]["mean"]))
    np.testing.assert_allclose(moved, 0.9 * before + 0.1 * batch, rtol=1e-4, atol=1e-6)


def test_the_study_can_leave_the_published_momentum():
    digits, config = make_feed(small_digits()), small_config(head="probe")
    spec = dataclasses.replace(small_spec(), build=Slow)

    def momentum():
        network, arrays, *_ = loop.prepare(spec, digits, config)
        backbone = network.backbone, arrays.params["backbone"], arrays.state["backbone"]
        return functional.merge(*backbone, train=True).norm.momentum

    with batch_norm_memory.as_published():
        assert momentum() == 0.999
    assert momentum() == 0.9
