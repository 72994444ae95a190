"""What is asked of dtypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.ops import dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_inexact_arrays_carry_derivatives(dtype):
    assert dtypes.is_float(jnp.ones(2, dtype))


@pytest.mark.parametrize("x", [np.ones(2, np.int32), np.ones(2, np.uint8), np.array(True), 3])
def test_whole_numbers_and_truth_values_carry_none(x):
    assert not dtypes.is_float(x)


def test_numbers_and_shapes_are_asked_like_arrays():
    assert dtypes.is_float(1.5)
    assert dtypes.is_float(jax.ShapeDtypeStruct((2,), jnp.bfloat16))
    assert not dtypes.is_float(jax.ShapeDtypeStruct((2,), jnp.int32))


def test_random_keys_are_told_from_arrays():
    assert dtypes.is_key(jax.random.key(0))
    assert dtypes.is_key(jax.random.split(jax.random.key(0), 3))
    assert not dtypes.is_key(jax.random.key_data(jax.random.key(0)))
    assert not dtypes.is_key(jnp.ones(2, jnp.float32))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_sums_are_at_least_float32(dtype, expected):
    assert dtypes.accumulator(jnp.dtype(dtype)) == jnp.dtype(expected)


def test_struct_is_shape_and_dtype():
    assert dtypes.struct(np.ones((2, 3), np.float32)) == jax.ShapeDtypeStruct((2, 3), jnp.float32)
