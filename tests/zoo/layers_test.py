"""Batch norm's statistics in one pass and in two; max pooling by windows and by slices."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import functional, layers
from ncap_jax.zoo.layers import BatchNorm, moments

AXES = (0, 1, 2)
BATCH = 16
# docs/numerics.md: what a sum of as many terms loses, times what the shift can cost.
TOLERANCE = np.finfo(np.float32).eps * np.sqrt(BATCH * 5 * 5) * (1 + BATCH)


def draw(mean: float, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, 1, (BATCH, 5, 5, 3)).astype(dtype)


@pytest.mark.parametrize("once", [False, True])
def test_derivatives_of_two_orders_are_the_plain_formula_s(once):
    with jax.enable_x64(True):
        x, direction = jnp.asarray(draw(2.0)), jnp.asarray(draw(0.0)[::-1])

        def plain(x):
            mean, var = jnp.mean(x, AXES), jnp.var(x, AXES)
            return jnp.sum(mean**2 * var)

        def ours(x):
            mean, var = moments(x, once=once)
            return jnp.sum(mean**2 * var)

        for f in (plain, jax.grad(plain)):
            assert np.abs(np.asarray(f(x))).max() > 1e-3  # no comparison of zeros
        np.testing.assert_allclose(ours(x), plain(x), rtol=1e-12)
        first = jax.grad(ours)(x), jax.grad(plain)(x)
        np.testing.assert_allclose(*first, rtol=0, atol=1e-12)
        second = (jax.jvp(jax.grad(f), (x,), (direction,))[1] for f in (ours, plain))
        np.testing.assert_allclose(*second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_one_pass_keeps_float32_where_the_mean_is_large(mean):
    x = draw(mean, np.float32)
    found = moments(jnp.asarray(x), once=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found[0], exact.mean(AXES), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], exact.var(AXES), rtol=TOLERANCE)


def test_one_pass_with_a_first_sample_far_from_all_others():
    x = draw(0.0, np.float32)
    x[0] += 1e4
    found = moments(jnp.asarray(x), once=True)
    np.testing.assert_allclose(found[1], x.astype(np.float64).var(AXES), rtol=TOLERANCE)


def test_two_passes_are_the_plain_formula_to_the_last_bit():
    x = jnp.asarray(draw(3.0, np.float32))
    found = jax.jit(partial(moments, once=False))(x)
    plain = jax.jit(lambda x: (jnp.mean(x, AXES), jnp.var(x, AXES)))(x)
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("backend", "once"), [("cpu", False), ("gpu", True), ("tpu", True)])
def test_accelerators_read_the_values_once(backend, once, monkeypatch):
    norm = BatchNorm(3, name="norm", rngs=nnx.Rngs(0))
    definition, params, state = functional.split(norm)
    x = jnp.asarray(draw(1.0, np.float32))
    asked = []

    def spy(values, *, once):
        asked.append(once)
        return moments(values, once=once)

    monkeypatch.setattr("ncap_jax.zoo.layers.moments", spy)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    y, moved = functional.apply(definition, params, state, x, train=True, method="__call__")
    assert asked == [once]
    np.testing.assert_allclose(np.mean(y, AXES), 0, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.99 + 0.01 * x.var(AXES), rtol=1e-5)


POOLS = [
    (2, 2, "VALID"),
    (3, 2, "SAME"),
    (3, 2, 1),
    (3, 1, "SAME"),
    (1, 2, "VALID"),
    (2, 3, "VALID"),
]


def both_pools(window, stride, padding):
    pads = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
    windows = partial(nnx.max_pool, window_shape=(window,) * 2, strides=(stride,) * 2, padding=pads)
    return (
        partial(layers.running_max_pool, window=window, stride=stride, padding=padding),
        windows,
    )


@pytest.mark.parametrize(("window", "stride", "padding"), POOLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sides", [(9, 12), (8, 7), (1, 2)])
def test_max_pooling_equals_windows_with_ties_and_infinities(window, stride, padding, dtype, sides):
    rng = np.random.default_rng(0)
    # Few values, so that most windows hold their maximum more than once.
    x = rng.integers(-2, 3, (2, *sides, 3)).astype(np.float32)
    x[x == -2] = -np.inf
    x = jnp.asarray(x, dtype)
    results = []
    for pool in both_pools(window, stride, padding):
        y, pull = jax.vjp(jax.jit(pool), x)
        # Powers of two add up without rounding: the gradients are equal to the last bit.
        powers = 2.0 ** np.random.default_rng(1).integers(0, 3, y.shape)
        results.append((y, *pull(jnp.asarray(powers, dtype))))
    for ours, windows in zip(*results, strict=True):
        assert ours.dtype == windows.dtype
        np.testing.assert_array_equal(ours, windows)


def test_a_nan_stays_in_its_windows():
    x = np.zeros((1, 6, 6, 1), np.float32)
    x[0, 1, 1] = x[0, 4, 5] = np.nan
    ours, windows = (pool(jnp.asarray(x)) for pool in both_pools(2, 2, "VALID"))
    assert np.isnan(ours).sum() == 2
    np.testing.assert_array_equal(ours, windows)


@pytest.mark.parametrize(
    ("backend", "stride", "slices"),
    [("cpu", 2, True), ("cpu", 1, False), ("gpu", 2, False), ("tpu", 2, False)],
)
def test_accelerators_and_overlapping_windows_pool_by_windows(backend, stride, slices, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    pool = partial(layers.max_pool, window=2, stride=stride)
    jaxpr = jax.make_jaxpr(pool)(jnp.zeros((1, 4, 4, 1)))
    assert ("reduce_window_max" not in str(jaxpr)) == slices
