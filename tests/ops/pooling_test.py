"""Pooling equals Flax's to the last bit: values, gradients, ties, infinities, NaN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.ops import pooling
from ncap_jax.ops.pooling import Padding

# (window, stride, padding)
POOLS: list[tuple[int, int, Padding]] = [
    (2, 2, "VALID"),
    (3, 2, "SAME"),
    (3, 2, 1),
    (3, 1, "SAME"),
    (1, 2, "VALID"),
    (2, 3, "VALID"),
    (3, 3, ((0, 1), (1, 0))),
]
Pool = Callable[[jax.Array], jax.Array]


def flax_pool(pool: Callable[..., jax.Array], window: int, stride: int, padding: Padding) -> Pool:
    """Flax's pooling with our way to write the padding."""
    pads = pooling.sides(padding)
    return partial(pool, window_shape=(window,) * 2, strides=(stride,) * 2, padding=pads)


def images(sides: tuple[int, int], dtype: str) -> jax.Array:
    """Few values, so that most windows hold their maximum more than once, and infinities."""
    x = np.random.default_rng(0).integers(-2, 3, (2, *sides, 3)).astype(np.float32)
    x[x == -2] = -np.inf
    return jnp.asarray(x, dtype)


def pulled(pools: list[Pool], x: jax.Array) -> list[list[np.ndarray]]:
    """Value and gradient of each pool; all in one compiled program."""

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(x: jax.Array) -> list[Any]:
        results = []
        for pool in pools:
            y, pull = jax.vjp(pool, x)
            # Powers of two add up without rounding: gradients can be equal to the last bit.
            powers = 2.0 ** np.random.default_rng(1).integers(0, 3, y.shape)
            results.append([y, *pull(jnp.asarray(powers, y.dtype))])
        return results

    return run(x)


@pytest.mark.parametrize(
    ("sides", "dtype"),
    [((9, 12), "float32"), ((8, 7), "float32"), ((1, 2), "float32"), ((9, 12), "bfloat16")],
)
def test_maxima_with_ties_and_infinities(sides: tuple[int, int], dtype: str):
    x = images(sides, dtype)
    ours = [partial(pooling.max_pool, window=w, stride=s, padding=p) for w, s, p in POOLS]
    flax = [flax_pool(nnx.max_pool, *pool) for pool in POOLS]
    # The others are taken by slices on the CPU anyway.
    overlapping = [pool for pool in POOLS if pool[0] > pool[1]]
    slices = [
        partial(pooling.running_max_pool, window=w, stride=s, padding=p) for w, s, p in overlapping
    ]
    results = pulled([*ours, *flax, *slices], x)
    number = len(POOLS)
    expected = dict(zip(POOLS, results[number : 2 * number]))
    found = [*zip(POOLS, results[:number]), *zip(overlapping, results[2 * number :])]
    assert len(found) == number + 3
    for pool, result in found:
        for left, right in zip(result, expected[pool], strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, err_msg=str(pool))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_means_do_not_count_the_padding(dtype: str):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 12, 3)), dtype)
    ours = [partial(pooling.average_pool, window=w, stride=s, padding=p) for w, s, p in POOLS]
    without = partial(nnx.avg_pool, count_include_pad=False)
    results = pulled([*ours, *(flax_pool(without, *pool) for pool in POOLS)], x)
    for index, (found, expected) in enumerate(zip(results, results[len(POOLS) :])):
        for left, right in zip(found, expected, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, err_msg=str(POOLS[index]))


def test_means_of_infinities_and_nan_are_flax_own():
    x = np.ones((1, 6, 6, 1), np.float32)
    x[0, 0, 0], x[0, 2, 2], x[0, 3, 3], x[0, 5, 5] = np.inf, np.inf, -np.inf, np.nan
    ours = pooling.average_pool(jnp.asarray(x), 3, 1, "SAME")
    flax = flax_pool(partial(nnx.avg_pool, count_include_pad=False), 3, 1, "SAME")(jnp.asarray(x))
    assert np.isinf(ours).any()
    assert np.isnan(ours).any()
    np.testing.assert_array_equal(ours, flax)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
def test_a_nan_stays_in_its_windows(window: int, stride: int):
    x = np.zeros((1, 6, 6, 1), np.float32)
    x[0, 1, 1] = x[0, 4, 5] = np.nan
    flax = flax_pool(nnx.max_pool, window, stride, "VALID")(jnp.asarray(x))
    assert np.isnan(flax).sum() == {2: 2, 3: 1}[window]
    for pool in (pooling.max_pool, pooling.running_max_pool):
        np.testing.assert_array_equal(pool(jnp.asarray(x), window, stride, "VALID"), flax)


def test_zero_padding_lets_no_negative_value_through_at_the_edge():
    x = -jnp.ones((1, 4, 4, 1))
    pooled = pooling.zero_padded_max_pool(x, 3, 2, 1)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[0, 0], [0, -1]])
    np.testing.assert_array_equal(pooling.max_pool(x, 3, 2, 1), -jnp.ones((1, 2, 2, 1)))


def test_paddings():
    assert pooling.sides("SAME") == "SAME"
    assert pooling.sides(2) == ((2, 2), (2, 2))
    assert pooling.sides(((0, 1), (2, 3))) == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("backend", "stride", "slices"),
    [("cpu", 2, True), ("cpu", 1, False), ("gpu", 2, False), ("tpu", 2, False)],
)
def test_accelerators_and_overlapping_windows_pool_by_windows(
    backend: str, stride: int, slices: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    pool = partial(pooling.max_pool, window=2, stride=stride)
    jaxpr = jax.make_jaxpr(pool)(jnp.zeros((1, 4, 4, 1)))
    assert ("reduce_window_max" not in str(jaxpr)) == slices
