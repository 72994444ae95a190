"""The probe: equal for equal feature widths, frozen by the steps, calibrated on features."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax import errors
from ncap_jax.zoo import functional, probe

# Of one shape, and the same in all tests: drawing compiles programs for every shape.
HIDDEN = (6, 6, 6)
make_probes = partial(probe.make_probes, 6, 3, HIDDEN)


def test_equal_feature_widths_get_equal_probes():
    one, first, _ = make_probes(seed=3)
    two, second, _ = make_probes(seed=3)
    assert one is two, "programs are shared as well"
    chex.assert_trees_all_equal(first, second)
    _, other, _ = make_probes(seed=4)
    assert np.any(first["output"]["kernel"] != other["output"]["kernel"])


def test_more_probes_keep_the_first_ones():
    _, one, _ = make_probes(num_probes=1)
    _, three, _ = make_probes(num_probes=3)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda a: a[0], one), jax.tree.map(lambda a: a[0], three)
    )
    kernels = three["output"]["kernel"]
    assert np.any(kernels[0] != kernels[1])
    assert np.any(kernels[1] != kernels[2])


@pytest.mark.parametrize(
    ("hidden", "cause"),
    [
        (
            (16, 16),
            "probe_widths=(16, 16), with which the signed beta_eff is exactly 0: a probe of 2 "
            "hidden layers is too shallow, because the output gradients of softmax and "
            "cross-entropy sum to 0",
        ),
        ((16, 0, 16), "probe_widths=(16, 0, 16), not all of which are positive"),
    ],
)
def test_probes_without_capacitance_are_refused(hidden: tuple[int, ...], cause: str):
    with pytest.raises(errors.ConfigError) as refusal:
        probe.make_probes(8, 3, hidden)
    assert refusal.value.cause == cause
    assert refusal.value.remedy == "Give at least 3 positive widths, such as 256,128,64"


def test_default_widths():
    _, params, _ = probe.make_probes(32, 7)
    kernels = [kernel.shape for kernel in probe.probe_arrays(params).kernels]
    assert kernels == [(1, 32, 256), (1, 256, 128), (1, 128, 64), (1, 64, 7)]


def test_arrays_come_in_the_kernels_order():
    module = probe.Probe(6, 3, HIDDEN, rngs=nnx.Rngs(0))
    arrays = probe.probe_arrays(functional.split(module)[1])
    layers = [*module.dense, module.output]
    for kernel, bias, layer in zip(arrays.kernels, arrays.biases, layers, strict=True):
        np.testing.assert_array_equal(kernel, layer.kernel[...])
        np.testing.assert_array_equal(bias, layer.bias[...])
    for gamma, beta, norm in zip(arrays.gammas, arrays.betas, module.norm, strict=True):
        assert (gamma is norm.scale[...], beta is norm.bias[...]) == (True, True)


def test_calibrated_statistics_are_those_of_the_features():
    f, params, state = make_probes(num_probes=2)
    features = jax.random.normal(jax.random.key(0), (200, 6)) * 3 + 1
    state = probe.calibrate(f, params, state, features)

    @jax.jit
    @jax.vmap
    def outputs(params: Any, state: Any) -> list[jax.Array]:
        run = partial(functional.apply, f, params, state, features, method="__call__")
        return [run(train=train)[0] for train in (False, True)]

    # With these statistics inference equals training mode on the same features.
    inference, training = outputs(params, state)
    assert inference.shape == (2, 200, 3)
    np.testing.assert_allclose(inference, training, rtol=1e-4, atol=1e-4)


def test_linear_head_is_one_dense_layer():
    f, params, state = probe.make_linear_head(6, 3)
    x = jnp.ones((2, 6))
    y = jax.vmap(lambda p, s: functional.apply(f, p, s, x, train=False, method="__call__")[0])(
        params, state
    )
    chex.assert_shape(y, (1, 2, 3))
    assert not state


def test_probe_is_an_ordinary_module():
    module = probe.Probe(6, 3, HIDDEN, rngs=nnx.Rngs(0))
    assert module(jnp.ones((4, 6))).shape == (4, 3)
