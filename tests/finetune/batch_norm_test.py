"""Running averages keep up with short runs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import ncap_jax as ncap
from experiments import batch_norm_memory
from ncap_jax.finetune import batch_norm, steps
from ncap_jax.zoo import functional, layers, load_model
from tests.support.small import SmallNet, small_spec, small_tuning


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
    batch_norm.limit_memory(module, steps)
    found = [module.blocks[0].momentum, module.inner.layers[0].momentum]
    assert found == pytest.approx(expected, abs=1e-12)
    assert (module.torch.momentum, module.fast.momentum) == (0.9, 0.5)


# As published with MobileNetV2.
SLOW = dataclasses.replace(small_spec(), build=functools.partial(SmallNet, momentum=0.999))


def test_a_run_does_not_keep_the_statistics_of_pretraining():
    """What a training step adds to the running mean: (1 - momentum) of the batch's, by hand."""
    tuning = small_tuning(SLOW)  # three steps an epoch: momentum 0.9
    network, train_state = tuning.candidate.network, tuning.candidate.train_state
    chunk = next(tuning.feed.train(0, 1, 32))
    backbone = functional.merge(
        network.backbone, train_state.params["backbone"], train_state.state["backbone"]
    )
    convolved = backbone.conv(network.preprocess(chunk.images[chunk.indices[0]]))
    batch = np.asarray(jnp.mean(convolved, axis=(0, 1, 2)))
    before = np.array(train_state.state["backbone"]["norm"]["mean"])
    one = chunk._replace(indices=chunk.indices[:1])
    key = jax.random.key(0)
    after, _ = steps.train_steps(tuning.candidate.program, train_state, one, key, scan=False)
    moved = np.asarray(after.state["backbone"]["norm"]["mean"])
    np.testing.assert_allclose(moved, 0.9 * before + 0.1 * batch, rtol=1e-4, atol=1e-6)


def test_the_study_can_leave_the_published_momentum():
    def momentum():
        candidate = small_tuning(SLOW).candidate
        arrays = (part["backbone"] for part in candidate.train_state[:2])
        return functional.merge(candidate.network.backbone, *arrays, train=True).norm.momentum

    with batch_norm_memory.as_published():
        assert momentum() == 0.999
    assert momentum() == 0.9


class LinenNet(linen.Module):
    """Batch norm of Keras's default momentum in a part of its own, and one that is shorter."""

    @linen.compact
    def __call__(self, x, train=False):
        slow = linen.BatchNorm(momentum=0.99, use_running_average=not train, name="slow")
        fast = linen.BatchNorm(momentum=0.5, use_running_average=not train, name="fast")
        return fast(x) + slow(x)


def test_adapted_linen_modules_take_part():
    """What one step adds to the running mean, by hand; the user's module stays as it is."""
    net, x = LinenNet(), jnp.arange(24.0).reshape(2, 2, 2, 3)
    spec = ncap.from_linen(net, net.init(jax.random.key(0), x), name="linen", input_size=2)
    limited, again, plain = (load_model(spec) for _ in range(3))
    for module in (limited, again):
        batch_norm.limit_memory(module, 39)  # momentum 0.95
    assert functional.split(limited)[0] is functional.split(again)[0]
    assert functional.split(limited)[0] != functional.split(plain)[0]
    for module, momentum in ((limited, 0.95), (plain, 0.99)):
        module.train()
        module.features(x)
        for name, expected in (("slow", momentum), ("fast", 0.5)):
            np.testing.assert_allclose(
                module.state["batch_stats"][name]["mean"][...],
                (1 - expected) * np.mean(x, axis=(0, 1, 2)),
                rtol=1e-5,
            )
