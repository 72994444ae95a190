"""What is asked of dtypes in more than one room."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def is_float(x: Any) -> bool:
    """Whether an array can carry a derivative."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def is_key(x: Any) -> bool:
    """Whether an array holds random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def accumulator(dtype: Any) -> Any:
    """The dtype to sum in: float32 for anything narrower."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def struct(x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
