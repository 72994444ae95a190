"""The probe: equal for equal feature widths, frozen by the steps, calibrated on features."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax import errors
from ncap_jax.zoo import functional, probe


def test_equal_feature_widths_get_equal_probes():
    _, first, _ = probe.make_head("probe", 24, 10, seed=3)
    _, second, _ = probe.make_head("trainable_probe", 24, 10, seed=3)
    chex.assert_trees_all_equal(first, second)
    _, other, _ = probe.make_head("probe", 24, 10, seed=4)
    assert np.any(first["output"]["kernel"] != other["output"]["kernel"])


def test_more_probes_keep_the_first_ones():
    _, one, _ = probe.make_head("probe", 8, 3, num_probes=1)
    _, three, _ = probe.make_head("probe", 8, 3, num_probes=3)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda a: a[0], one), jax.tree.map(lambda a: a[0], three)
    )
    kernels = three["output"]["kernel"]
    assert np.any(kernels[0] != kernels[1])
    assert np.any(kernels[1] != kernels[2])


def test_fewer_than_three_hidden_layers_is_an_error_that_says_why():
    with pytest.raises(errors.ConfigError, match=r"exactly 0.*at least 3"):
        probe.make_head("probe", 8, 3, hidden=(16, 16))
    with pytest.raises(errors.ConfigError, match="positive"):
        probe.make_head("probe", 8, 3, hidden=(16, 0, 16))


def test_default_widths():
    _, params, _ = probe.make_head("probe", 32, 7)
    shapes = [kernel.shape for kernel in probe.probe_arrays(params).kernels]
    assert shapes == [(1, 32, 256), (1, 256, 128), (1, 128, 64), (1, 64, 7)]


def test_calibrated_statistics_are_those_of_the_features():
    f, params, state = probe.make_head("probe", 6, 3, hidden=(8, 7, 5), num_probes=2)
    features = jax.random.normal(jax.random.key(0), (200, 6)) * 3 + 1
    state = probe.calibrate(f, params, state, features)
    for number in range(2):
        p, s = (jax.tree.map(lambda a, n=number: a[n], tree) for tree in (params, state))
        # With these statistics inference equals training mode on the same features.
        inference, _ = functional.apply(f, p, s, features, train=False, method="__call__")
        training, _ = functional.apply(f, p, s, features, train=True, method="__call__")
        np.testing.assert_allclose(inference, training, rtol=1e-4, atol=1e-4)


def test_linear_head_is_one_dense_layer():
    f, params, state = probe.make_head("linear", 6, 3, num_probes=1)
    x = jnp.ones((2, 6))
    y = jax.vmap(lambda p, s: functional.apply(f, p, s, x, train=False, method="__call__")[0])(
        params, state
    )
    chex.assert_shape(y, (1, 2, 3))
    assert not state


def test_probe_is_an_ordinary_module():
    module = probe.Probe(6, 3, (8, 8, 8), rngs=nnx.Rngs(0))
    assert module(jnp.ones((4, 6))).shape == (4, 3)
