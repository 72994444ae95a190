"""The layers: initialisers, batch norm in one pass and in two, dtypes, averages."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from ncap_jax.zoo import functional, layers
from ncap_jax.zoo.layers import BatchNorm, moments

AXES = (0, 1, 2)
BATCH = 16
# docs/numerics.md: what a sum of this many terms loses, times what the shift can cost.
TOLERANCE = np.finfo(np.float32).eps * np.sqrt(BATCH * 5 * 5) * (1 + BATCH)


def draw(mean: float, dtype: type[np.floating] = np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, 1, (BATCH, 5, 5, 3)).astype(dtype)


@pytest.mark.parametrize("once", [False, True])
def test_derivatives_of_two_orders_are_the_plain_formula_s(once: bool):
    with jax.enable_x64(True):
        x, direction = jnp.asarray(draw(2.0)), jnp.asarray(draw(0.0)[::-1])

        def plain(x: jax.Array) -> jax.Array:
            mean, var = jnp.mean(x, AXES), jnp.var(x, AXES)
            return jnp.sum(mean**2 * var)

        def ours(x: jax.Array) -> jax.Array:
            mean, var = moments(x, once=once)
            return jnp.sum(mean**2 * var)

        @jax.jit
        def derivatives(x: jax.Array) -> list[tuple[jax.Array, ...]]:
            return [(f(x), *jax.jvp(jax.grad(f), (x,), (direction,))) for f in (ours, plain)]

        found, expected = derivatives(x)
        for left, right in zip(found, expected):
            assert np.abs(np.asarray(right)).max() > 1e-3  # no comparison of zeros
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_one_pass_keeps_float32_where_the_mean_is_large(mean: float):
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
def test_accelerators_read_the_values_once(
    backend: str, once: bool, monkeypatch: pytest.MonkeyPatch
):
    norm = BatchNorm(3, name="norm", rngs=nnx.Rngs(0))
    definition, params, state = functional.split(norm)
    x = jnp.asarray(draw(1.0, np.float32))
    asked = []

    def spy(values: jax.Array, *, once: bool) -> tuple[jax.Array, jax.Array]:
        asked.append(once)
        return moments(values, once=once)

    monkeypatch.setattr("ncap_jax.zoo.layers.moments", spy)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    y, moved = functional.apply(definition, params, state, x, train=True, method="__call__")
    assert asked == [once]
    np.testing.assert_allclose(np.mean(y, AXES), 0, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.99 + 0.01 * x.var(AXES), rtol=1e-5)


def test_batch_norm_in_inference_is_keras_formula():
    norm = BatchNorm(3, name="norm", epsilon=0.5, rngs=nnx.Rngs(0))
    norm.eval()
    values = {"mean": [1.0, 2, 3], "var": [4.0, 5, 6], "scale": [2.0, 3, 4], "bias": [0.5, 1, 2]}
    for leaf, value in values.items():
        getattr(norm, leaf)[...] = jnp.asarray(value)
    x = draw(1.0, np.float32)
    mean, var, scale, bias = map(np.asarray, values.values())
    expected = (x - mean) / np.sqrt(var + 0.5) * scale + bias
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="masked statistics"):
        norm(jnp.asarray(x), mask=True)


def test_layer_norm_is_the_plain_formula():
    norm = layers.LayerNorm(3, name="norm", rngs=nnx.Rngs(0))
    x = draw(1.0, np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("initializer", "shape", "limit"),
    [
        (layers.glorot_uniform, (3, 3, 8, 16), np.sqrt(6 / (9 * (8 + 16)))),
        (layers.he_uniform, (3, 3, 8, 16), np.sqrt(6 / (9 * 8))),
        (layers.truncated_normal, (64, 32), 0.04),
        (layers.he_normal, (3, 3, 8, 16), 2 * np.sqrt(2 / (9 * 8)) / layers.CUT),
    ],
)
def test_initialisers_keep_to_their_limits(
    initializer: layers.Initializer, shape: tuple[int, ...], limit: float
):
    key = jax.random.key(0)
    check_spread(initializer(key, shape), limit)
    np.testing.assert_array_equal(initializer(key, shape), initializer(key, shape))
    assert np.any(initializer(key, shape) != initializer(jax.random.key(1), shape))


def check_spread(values: jax.Array, limit: float) -> None:
    assert values.dtype == jnp.float32
    assert 0.9 * limit < np.abs(values).max() <= limit * (1 + 1e-6)
    assert abs(np.asarray(values).mean()) < 0.1 * limit


@pytest.mark.parametrize(
    ("initializer", "limit"),
    [(layers.he_uniform, np.sqrt(6 / 64)), (layers.truncated_normal, 0.04)],
)
def test_initialisers_under_tracing(initializer: layers.Initializer, limit: float):
    """Numbers from JAX's generator then, of the same spread."""
    options = {"xla_backend_optimization_level": 0}
    traced = jax.jit(initializer, static_argnums=1, compiler_options=options)
    check_spread(traced(jax.random.key(0), (64, 32)), limit)


def test_cut_normals_have_the_stated_deviation():
    values = np.asarray(layers.truncated_normal(jax.random.key(0), (200, 100)))
    assert values.std() == pytest.approx(0.02 * layers.CUT, rel=0.02)
    assert pytest.approx(scipy.stats.truncnorm.std(-2, 2), rel=1e-12) == layers.CUT
    values = np.asarray(layers.he_normal(jax.random.key(0), (3, 3, 50, 60)))
    assert values.std() == pytest.approx(np.sqrt(2 / 450), rel=0.02)


def test_a_strided_same_convolution_pads_the_odd_pixel_at_the_end():
    conv = layers.Conv(1, 1, 3, 2, name="conv", rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # TensorFlow's "SAME" at even sides: nothing above and left, one row below, one column right.
    rows = np.pad(np.arange(16.0).reshape(4, 4), ((0, 1), (0, 1)))
    expected = [[rows[i : i + 3, j : j + 3].sum() for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_array_equal(conv(x)[0, :, :, 0], expected)


def test_dtypes():
    conv = layers.Conv(3, 4, name="conv", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert conv.kernel.dtype == jnp.float32
    y = conv(jnp.ones((1, 2, 2, 3)))
    assert y.dtype == jnp.bfloat16
    assert layers.global_average(y).dtype == jnp.float32


def test_backbones_average_their_last_stage():
    class Backbone(layers.Backbone):
        def stages(self, x: jax.Array) -> dict[str, jax.Array]:
            return {"one": x, "two": 2 * x}

    x = jnp.asarray(draw(1.0, np.float32))
    np.testing.assert_allclose(Backbone().features(x), 2 * x.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(Backbone()(x), Backbone().features(x))
    with pytest.raises(NotImplementedError, match="Bare defines no stages"):
        type("Bare", (layers.Backbone,), {})().features(x)


def test_relu6():
    np.testing.assert_array_equal(layers.relu6(jnp.asarray([-1.0, 3, 7])), [0, 3, 6])


def test_most_networks_hold_the_same_weights_for_every_size():
    assert layers.Backbone().sized_weights(64) == {}
