"""Whole-network beta_eff of NNX modules against a brute-force dense P of the same function."""

from __future__ import annotations

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import ncap_jax
from ncap_jax.capacitance import network
from ncap_jax.capacitance.reference import beta_eff as dense_beta_eff
from ncap_jax.errors import ConfigError, KernelError
from ncap_jax.zoo import layers
from ncap_jax.zoo.capacitance import edge_degrees, network_beta_eff, split_model
from tests.capacitance import brute_force

# docs/numerics.md: float64 against float64, Jacobians of a whole network.
EXACT = 1e-10


@pytest.fixture(autouse=True)
def strict_numerics():
    """Flax promotes on purpose; the kernels' own tests are strict."""
    return


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


class ConvNet(nnx.Module):
    """Strided, depthwise, dilated and grouped convolutions, three norms, concatenation, pools."""

    def __init__(self, rngs):
        wide = {"rngs": rngs, "param_dtype": jnp.result_type(float)}
        self.stem = nnx.Conv(2, 4, (3, 3), strides=2, **wide)
        self.batch_norm = nnx.BatchNorm(4, **wide)
        self.depthwise = nnx.Conv(4, 4, (3, 3), feature_group_count=4, kernel_dilation=2, **wide)
        self.group_norm = nnx.GroupNorm(4, num_groups=2, **wide)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.mix = nnx.Conv(8, 4, (1, 1), feature_group_count=2, use_bias=False, **wide)
        self.hidden = nnx.Linear(4, 3, **wide)
        self.logits = nnx.Linear(3, 3, **wide)
        shape = (4,)
        self.batch_norm.mean = nnx.BatchStat(
            jax.random.normal(rngs(), shape, jnp.result_type(float))
        )
        self.batch_norm.var = nnx.BatchStat(
            jax.random.uniform(rngs(), shape, jnp.result_type(float)) + 0.1
        )
        self.batch_norm.scale[...] = jax.random.normal(rngs(), shape, jnp.result_type(float))
        self.group_norm.scale[...] = jax.random.normal(rngs(), shape, jnp.result_type(float))

    def __call__(self, x):
        x = nnx.relu(self.batch_norm(self.stem(x)))
        y = nnx.gelu(self.group_norm(self.depthwise(x)))
        x = self.dropout(nnx.leaky_relu(self.mix(jnp.concatenate([x, y], axis=-1))))
        x = nnx.avg_pool(x, (2, 2), (2, 2)).mean(axis=(1, 2))
        return self.logits(nnx.elu(self.hidden(x)))


def conv_net(model):
    """The same function, with its layers named and its held states marked."""
    bn, gn = model.batch_norm, model.group_norm

    def bias(name):
        return getattr(model, name).bias[...]

    def net(layer, hold, x):
        x = layer("stem", x) + bias("stem")
        x = (x - bn.mean[...]) / jnp.sqrt(bn.var[...] + bn.epsilon) * bn.scale[...] + bn.bias[...]
        x = jax.nn.relu(x)
        y = layer("depthwise", x) + bias("depthwise")
        groups = y.reshape(*y.shape[:3], 2, 2)
        mean = hold(groups.mean(axis=(1, 2, 4), keepdims=True))
        variance = hold(groups.var(axis=(1, 2, 4), keepdims=True))
        y = ((groups - mean) / jnp.sqrt(variance + gn.epsilon)).reshape(y.shape)
        y = jax.nn.gelu(y * gn.scale[...] + gn.bias[...])
        x = jax.nn.leaky_relu(layer("mix", jnp.concatenate([x, y], axis=-1)))
        x = x.mean(axis=(1, 2))
        return layer("logits", jax.nn.elu(layer("hidden", x) + bias("hidden"))) + bias("logits")

    def conv(stride, groups, dilation):
        return lambda w, u: lax.conv_general_dilated(
            u,
            w,
            (stride, stride),
            "SAME",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    lins = {
        "stem": conv(2, 1, 1),
        "depthwise": conv(1, 4, 2),
        "mix": conv(1, 2, 1),
        "hidden": lambda w, u: u @ w,
        "logits": lambda w, u: u @ w,
    }
    return net, lins, {name: getattr(model, name).kernel[...] for name in lins}


def exact_attention(query, key, value, **_):
    """Flax's own rounds the scores to float32 whatever the dtype."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


class VisionTransformer(nnx.Module):
    """Patches, one pre-norm block with two heads, mean over tokens."""

    def __init__(self, rngs, attention=exact_attention):
        wide = {"rngs": rngs, "param_dtype": jnp.result_type(float)}
        self.patches = nnx.Conv(2, 4, (2, 2), strides=2, **wide)
        self.position = nnx.Param(jax.random.normal(rngs(), (4, 4), jnp.result_type(float)))
        self.norms = nnx.List(nnx.LayerNorm(4, **wide) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, attention_fn=attention, **wide)
        self.up = nnx.Linear(4, 6, **wide)
        self.down = nnx.Linear(6, 4, **wide)
        self.head = nnx.Linear(4, 3, **wide)
        for norm in self.norms:
            norm.scale[...] = jax.random.normal(rngs(), (4,), jnp.result_type(float))

    def __call__(self, x):
        x = self.patches(x).reshape(x.shape[0], 4, 4) + self.position[...]
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(axis=1))


def vision_transformer(model):
    att = model.attention

    def net(layer, hold, x):
        def norm(x, module):
            mean = hold(x.mean(axis=-1, keepdims=True))
            variance = hold(x.var(axis=-1, keepdims=True))
            return (x - mean) / jnp.sqrt(variance + module.epsilon) * module.scale[...]

        x = layer("patches", x).reshape(x.shape[0], 4, 4) + model.position[...]
        y = norm(x, model.norms[0])
        query, key, value = (layer(name, y) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2)
        y = jnp.einsum("bhqk,bkhd->bqhd", hold(jax.nn.softmax(scores)), value)
        x = x + layer("out", y)
        x = x + layer("down", jax.nn.gelu(layer("up", norm(x, model.norms[1]))))
        return layer("head", norm(x, model.norms[2]).mean(axis=1))

    def heads(w, u):
        return jnp.einsum("btc,chd->bthd", u, w)

    def patch(w, u):
        u = u.reshape(u.shape[0], 2, 2, 2, 2, 2)
        return jnp.einsum("bhiwjc,ijco->bhwo", u, w)

    lins = {
        "patches": patch,
        **dict.fromkeys(("query", "key", "value"), heads),
        "out": lambda w, u: jnp.einsum("bthd,hdc->btc", u, w),
        **{name: (lambda w, u: u @ w) for name in ("up", "down", "head")},
    }
    owner = {name: att if hasattr(att, name) else model for name in lins}
    return net, lins, {name: getattr(owner[name], name).kernel[...] for name in lins}


CASES = {
    "convolutions": (ConvNet, conv_net, (8, 8, 2)),
    "attention": (VisionTransformer, vision_transformer, (4, 4, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_against_brute_force(x64, name):
    build, describe, shape = CASES[name]
    model = build(nnx.Rngs(0))
    net, lins, weights = describe(model)
    inputs = jax.random.normal(jax.random.key(1), (3, *shape), jnp.result_type(float))
    labels = jnp.array([0, 2, 1])
    function, params, constants = split_model(model)
    np.testing.assert_allclose(
        function(params, constants, inputs),
        brute_force.apply(net, lins)(weights, None, inputs),
        rtol=1e-9,
    )
    for strength, p in brute_force.dense_adjacency(net, lins, weights, inputs, labels).items():
        result = network_beta_eff(model, inputs, labels, strength, batch_size=2)
        assert result.status == "ok"
        tolerance = EXACT * float(result.condition)
        np.testing.assert_allclose(result.value, dense_beta_eff(p), rtol=tolerance)
    degrees = edge_degrees(model, inputs, labels, "squared")
    for pick, expected in ((degrees.delta_in, p.sum(axis=1)), (degrees.delta_out, p.sum(axis=0))):
        start, scale = 0, p.sum()
        for key in lins:
            branch = pick.get("attention", pick) if key not in pick else pick
            found = np.asarray(branch[key]["kernel"])
            assert found.shape == weights[key].shape
            stop = start + found.size
            np.testing.assert_allclose(found.ravel(), expected[start:stop], atol=EXACT * scale)
            start = stop


def test_attention_as_flax_computes_it():
    inputs = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    labels = jnp.array([0, 2, 1])
    exact = VisionTransformer(nnx.Rngs(0))
    flax = VisionTransformer(nnx.Rngs(0), nnx.dot_product_attention)
    for strength in network.STRENGTHS:
        found = network_beta_eff(flax, inputs, labels, strength)
        expected = network_beta_eff(exact, inputs, labels, strength)
        tolerance = 1e-5 * float(expected.condition)
        np.testing.assert_allclose(float(found), float(expected), rtol=tolerance)
    # With equal gains the signed value of a pre-norm transformer is 0 (docs/numerics.md).
    for norm in exact.norms:
        norm.scale[...] = jnp.ones(4)
    signed, absolute = (network_beta_eff(exact, inputs, labels, s) for s in network.STRENGTHS[:2])
    assert abs(float(signed)) < 1e-5 * float(absolute)


class Perceptron(nnx.Module):
    def __init__(self, rngs, widths=(4, 5, 6, 5, 3)):
        self.layers = nnx.List(nnx.Linear(m, n, rngs=rngs) for m, n in itertools.pairwise(widths))

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


def data(batch=7):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, 4)).astype(np.float32), rng.integers(0, 3, batch)


def test_of_an_mlp_is_mlp_beta_eff():
    model = Perceptron(nnx.Rngs(0))
    kernels = [layer.kernel[...] for layer in model.layers]
    biases = [layer.bias[...] for layer in model.layers]
    for strength in network.STRENGTHS:
        found = ncap_jax.network_beta_eff(model, *data(), strength=strength)
        expected = ncap_jax.mlp_beta_eff(kernels, biases, *data(), strength=strength)
        assert found.status == expected.status == "ok"
        np.testing.assert_allclose(float(found), float(expected), rtol=1e-4)


def test_the_model_keeps_its_mode_and_arrays():
    model = ConvNet(nnx.Rngs(0))
    model.train()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))
    split_model(model)
    assert model.dropout.deterministic is False
    assert model.batch_norm.use_running_average is False
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_edge_degrees_have_the_shape_of_the_weights():
    model = Perceptron(nnx.Rngs(0))
    degrees = ncap_jax.edge_degrees(model, *data())
    for number, layer in enumerate(model.layers):
        for side in degrees:
            assert side["layers"][number]["kernel"].shape == layer.kernel.shape
            assert set(side["layers"][number]) == {"kernel"}
    first, last = degrees.delta_out["layers"][0], degrees.delta_in["layers"][3]
    assert not np.any(first["kernel"])
    assert not np.any(last["kernel"])


class Sorting(Perceptron):
    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.sort(layer(x), axis=1)
        return self.layers[-1](x)


def test_a_module_that_cannot_be_treated_is_named():
    with pytest.raises(KernelError, match=r"'sort' in Sorting.__call__ \(.*capacitance_test.py"):
        network_beta_eff(Sorting(nnx.Rngs(0)), *data())
    with pytest.raises(KernelError, match=r"3 weight layers and ends in layers/2/kernel"):
        network_beta_eff(Perceptron(nnx.Rngs(0), (4, 5, 5, 3)), *data())
    with pytest.raises(KernelError, match=r"not a flax\.nnx\.Module"):
        network_beta_eff(jnp.tanh, *data())


def test_bad_input_is_refused():
    model, (inputs, labels) = Perceptron(nnx.Rngs(0)), data()
    for x, y, words in (
        (inputs[:0], labels[:0], "empty"),
        (inputs.astype(int), labels, "floating point"),
        (inputs, labels + 1, "Renumber"),
        (inputs, labels[1:], "one label a sample"),
        (inputs * np.nan, labels, "NaN"),
    ):
        with pytest.raises(KernelError, match=words):
            network_beta_eff(model, x, y)
    with pytest.raises(ConfigError, match="strength"):
        network_beta_eff(model, inputs, labels, "total")
    model.layers[1].kernel[...] = jnp.full((5, 6), jnp.nan)
    with pytest.raises(KernelError, match="layers/1/kernel has 30 values"):
        network_beta_eff(model, inputs, labels)


class Pooled(nnx.Module):
    """Convolutions with pools between them."""

    def __init__(self, rngs):
        wide = {"rngs": rngs, "param_dtype": jnp.result_type(float)}
        self.convs = nnx.List([nnx.Conv(i, 4, (3, 3), **wide) for i in (2, 4, 4)])
        self.logits = nnx.Linear(4, 3, **wide)

    def __call__(self, x):
        for conv, shape in zip(self.convs, ((2, 2), (3, 3), (1, 2))):
            x = layers.max_pool(nnx.relu(conv(x)), *shape, "SAME")
        return self.logits(jnp.mean(x, axis=(1, 2)))


def test_max_pooling_by_slices_and_by_windows_have_one_beta_eff(x64, monkeypatch):
    images = np.random.default_rng(0).normal(size=(5, 11, 11, 2))
    labels = np.arange(5) % 3
    found, pooled = [], []
    for name in ("running_max_pool", "nnx.max_pool"):
        pool = operator.attrgetter(name)(layers)
        spy = lambda *a, name=name, pool=pool: pooled.append(name) or pool(*a)  # noqa: E731
        monkeypatch.setattr(f"ncap_jax.zoo.layers.{name}", spy)
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        apply, *arrays = split_model(Pooled(nnx.Rngs(0)))
        found.append(network.measure(apply, *arrays, images, labels))
    assert set(pooled) == {"running_max_pool", "nnx.max_pool"}
    for ours, windows in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, windows, rtol=1e-12)
