"""A bilinear primitive with one form on the CPU and another elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ncap_jax.ops.bilinear import bilinear_primitive


def test_each_platform_gets_its_own_form():
    def shape(x, y):
        del y
        return jax.core.ShapedArray(x.shape, x.dtype)

    def unused(*arguments, **params):
        raise AssertionError("no derivative and no vmap is asked for")

    product = bilinear_primitive(
        "test_product", shape, lax.mul, lambda x, y: lax.exp(x) * y, (unused, unused), unused
    )
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(product.bind(x, x), x * x)  # outside jit
    step = jax.jit(product.bind).trace(x, x)
    assert "exponential" not in step.lower(lowering_platforms=("cpu",)).as_text()
    assert "exponential" in step.lower(lowering_platforms=("cuda",)).as_text()
