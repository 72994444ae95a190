"""Whole-network beta_eff of NNX modules against a brute-force dense P of the same function."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import ncap_jax
from ncap_jax.capacitance import beta_eff, line_graph, network, reference
from ncap_jax.errors import ConfigError, KernelError
from ncap_jax.measure.network import accumulate, batches_of, network_beta_eff, split_model
from ncap_jax.ops import pooling
from tests.support import brute_force
from tests.support.small import cheap_init

# docs/numerics.md: float64 against float64, Jacobians of a whole network.
EXACT = 1e-10


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def numbers(seed, *shape):
    """Gaussian numbers in the dtype of the day."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


class ConvNet(nnx.Module):
    """Strided, depthwise, dilated and grouped convolutions, three norms, concatenation, pools."""

    def __init__(self, rngs):
        wide = {"rngs": rngs, "param_dtype": jnp.result_type(float)}
        drawn = {"kernel_init": cheap_init, **wide}
        self.stem = nnx.Conv(2, 4, (3, 3), strides=2, **drawn)
        self.batch_norm = nnx.BatchNorm(4, **wide)
        self.depthwise = nnx.Conv(4, 4, (3, 3), feature_group_count=4, kernel_dilation=2, **drawn)
        self.group_norm = nnx.GroupNorm(4, num_groups=2, **wide)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.mix = nnx.Conv(8, 4, (1, 1), feature_group_count=2, use_bias=False, **drawn)
        self.hidden = nnx.Linear(4, 3, **drawn)
        self.logits = nnx.Linear(3, 3, **drawn)
        self.batch_norm.mean = nnx.BatchStat(numbers(1, 4))
        self.batch_norm.var = nnx.BatchStat(numbers(2, 4) ** 2 + 0.1)
        self.batch_norm.scale[...] = numbers(3, 4)
        self.group_norm.scale[...] = numbers(4, 4)

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
        drawn = {"kernel_init": cheap_init, **wide}
        self.patches = nnx.Conv(2, 4, (2, 2), strides=2, **drawn)
        self.position = nnx.Param(numbers(0, 4, 4))
        self.norms = nnx.List(nnx.LayerNorm(4, **wide) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, attention_fn=attention, **drawn)
        self.up = nnx.Linear(4, 6, **drawn)
        self.down = nnx.Linear(6, 4, **drawn)
        self.head = nnx.Linear(4, 3, **drawn)
        for seed, norm in enumerate(self.norms, start=1):
            norm.scale[...] = numbers(seed, 4)

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


def measured(model, inputs, labels, strengths=network.STRENGTHS, every_edge=True):
    """What the public functions add up, for all strengths in one program."""
    split, batch_size = split_model(model), 2
    empty = network.init(*split, inputs[:batch_size], strengths, every_edge=every_edge)
    batches = batches_of(inputs, labels, batch_size)
    return accumulate(empty, split, batches, every_edge=every_edge)


@pytest.mark.parametrize("name", CASES)
def test_against_brute_force(x64, name):
    build, describe, shape = CASES[name]
    model = build(nnx.Rngs(0))
    net, lins, weights = describe(model)
    inputs = np.random.default_rng(1).normal(size=(3, *shape))
    labels = np.array([0, 2, 1])
    function, params, constants = split_model(model)
    np.testing.assert_allclose(
        jax.jit(function)(params, constants, inputs),
        jax.jit(brute_force.apply(net, lins))(weights, None, inputs),
        rtol=1e-9,
    )
    state = measured(model, inputs, labels)
    results, degrees = beta_eff.from_state(state), line_graph.finalise(state)
    for strength, p in brute_force.dense_adjacency(net, lins, weights, inputs, labels).items():
        assert results[strength].status == "ok"
        tolerance = EXACT * float(results[strength].condition)
        np.testing.assert_allclose(results[strength].value, reference.beta_eff(p), rtol=tolerance)
        found = degrees[strength]
        for pick, expected in ((found.delta_in, p.sum(axis=1)), (found.delta_out, p.sum(axis=0))):
            start, scale = 0, np.abs(p).sum()
            for key in lins:
                path = key if f"{key}/kernel" in pick else f"attention/{key}"
                degree = np.asarray(pick[f"{path}/kernel"])
                assert degree.shape == weights[key].shape
                stop = start + degree.size
                np.testing.assert_allclose(degree.ravel(), expected[start:stop], atol=EXACT * scale)
                start = stop
            assert start == len(p)


def test_attention_as_flax_computes_it():
    inputs = np.random.default_rng(1).normal(size=(3, 4, 4, 2)).astype(np.float32)
    found, expected = (
        beta_eff.from_state(
            measured(
                VisionTransformer(nnx.Rngs(0), attention),
                *(inputs, np.array([0, 2, 1])),
                every_edge=False,
            )
        )
        for attention in (nnx.dot_product_attention, exact_attention)
    )
    for strength in network.STRENGTHS:
        tolerance = 1e-5 * float(expected[strength].condition)
        np.testing.assert_allclose(
            float(found[strength]), float(expected[strength]), rtol=tolerance
        )


def test_with_equal_gains_the_signed_value_of_a_transformer_is_zero(x64):
    """See docs/numerics.md."""
    model = VisionTransformer(nnx.Rngs(0))
    for norm in model.norms:
        norm.scale[...] = jnp.ones(4)
    inputs = np.random.default_rng(1).normal(size=(3, 4, 4, 2))
    equal = beta_eff.from_state(measured(model, inputs, np.array([0, 2, 1])))
    assert abs(float(equal["signed"])) < 1e-12 * float(equal["absolute"])


class Perceptron(nnx.Module):
    def __init__(self, rngs, widths=(4, 5, 6, 5, 3)):
        dense = partial(nnx.Linear, kernel_init=cheap_init, rngs=rngs)
        self.layers = nnx.List(dense(m, n) for m, n in itertools.pairwise(widths))

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


def data(batch=7):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, 4)).astype(np.float32), rng.integers(0, 3, batch)


def dense(model, strength):
    """P of a perceptron on `data`, by the reference in NumPy."""
    kernels = [layer.kernel[...] for layer in model.layers]
    biases = [layer.bias[...] for layer in model.layers]
    return reference.dense_adjacency(kernels, biases, *data(), strength)


@pytest.mark.parametrize("strength", network.STRENGTHS)
def test_of_an_mlp_by_the_reference(strength):
    """Whatever the batches; the last one is padded."""
    model = Perceptron(nnx.Rngs(0))
    found = ncap_jax.network_beta_eff(model, *data(), strength=strength, batch_size=4)
    assert found.status == "ok"
    expected = reference.beta_eff(dense(model, strength))
    np.testing.assert_allclose(float(found), expected, rtol=1e-5 * float(found.condition))


def test_of_an_mlp_is_mlp_beta_eff():
    model = Perceptron(nnx.Rngs(0))
    kernels = [layer.kernel[...] for layer in model.layers]
    biases = [layer.bias[...] for layer in model.layers]
    found = ncap_jax.network_beta_eff(model, *data(), batch_size=4)
    expected = ncap_jax.mlp_beta_eff(kernels, biases, *data())
    assert found.status == expected.status == "ok"
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-4)


class Tied(Perceptron):
    """One layer used three times: one set of edges."""

    def __call__(self, x):
        x = nnx.relu(self.layers[0](x))
        for _ in range(3):
            x = nnx.relu(self.layers[1](x))
        return self.layers[2](x)


def test_degrees_of_a_shared_layer_are_the_sums_over_its_uses():
    tied = Tied(nnx.Rngs(0), (4, 5, 5, 3))
    apart = Perceptron(nnx.Rngs(0), (4, 5, 5, 5, 5, 3))
    ends = {0: 0, 1: 1, 2: 1, 3: 1, 4: 2}
    for number, source in ends.items():
        apart.layers[number].kernel[...] = tied.layers[source].kernel[...]
    one, many = (
        line_graph.finalise(measured(model, *data(), strengths=("absolute",)))["absolute"]
        for model in (tied, apart)
    )
    for side in ("delta_in", "delta_out"):
        uses = (getattr(many, side)[f"layers/{number}/kernel"] for number in (1, 2, 3))
        np.testing.assert_allclose(getattr(one, side)["layers/1/kernel"], sum(uses), rtol=1e-5)


def test_a_module_keeps_its_mode_and_arrays():
    model = ConvNet(nnx.Rngs(0))
    model.train()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))
    split_model(model)
    assert model.dropout.deterministic is False
    assert model.batch_norm.use_running_average is False
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_edge_degrees_are_nested_as_the_model_is():
    model = Perceptron(nnx.Rngs(0))
    degrees = ncap_jax.edge_degrees(model, *data(), strength="squared", batch_size=4)
    p = dense(model, "squared")
    for nested, expected in zip(degrees, (p.sum(axis=1), p.sum(axis=0)), strict=True):
        assert set(nested["layers"]) == {0, 1, 2, 3}
        for number, layer in enumerate(model.layers):
            assert set(nested["layers"][number]) == {"kernel"}
            found = np.asarray(nested["layers"][number]["kernel"])
            assert found.shape == layer.kernel.shape
            wanted, expected = np.split(expected, [found.size])
            np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-4, atol=1e-6)
    assert not np.any(degrees.delta_out["layers"][0]["kernel"])
    assert not np.any(degrees.delta_in["layers"][3]["kernel"])


class Sorting(Perceptron):
    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.sort(layer(x), axis=1)
        return self.layers[-1](x)


def refusal(kind, *arguments):
    with pytest.raises(kind) as error:
        network_beta_eff(*arguments)
    assert error.value.remedy
    return error.value.cause, error.value.remedy


def test_a_module_that_cannot_be_treated_is_named():
    cause, _ = refusal(KernelError, Sorting(nnx.Rngs(0)), *data())
    assert cause.startswith("'sort' in Sorting.__call__ (")
    assert "measure/network_test.py" in cause
    cause, remedy = refusal(KernelError, Perceptron(nnx.Rngs(0), (4, 5, 5, 3)), *data())
    assert cause.startswith("the longest path has 3 weight layers and ends in layers/2/kernel, ")
    assert remedy == "Use a deeper network, or a probe on its features"
    assert refusal(KernelError, jnp.tanh, *data()) == (
        f"the model is a {type(jnp.tanh).__name__}, not a flax.nnx.Module",
        "For a plain function use ncap_jax.capacitance.network",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:0], y[:0]), "empty"),
        (lambda x, y: (x.astype(int), y), "int64"),
        (lambda x, y: (x, y + 1), "but the network has 3 outputs"),
        (lambda x, y: (x, y[1:]), "6 labels for 7 samples"),
        (lambda x, y: (x * np.nan, y), "28"),
    ],
)
def test_data_that_has_no_beta_eff_are_refused(change, words):
    cause, _ = refusal(KernelError, Perceptron(nnx.Rngs(0)), *change(*data()))
    assert words in cause


def test_a_strength_of_probes_alone_is_refused():
    cause, _ = refusal(ConfigError, Perceptron(nnx.Rngs(0)), *data(), "total")
    assert cause == "unknown strength 'total'"


def test_a_weight_that_is_not_finite_is_named():
    model = Perceptron(nnx.Rngs(0))
    model.layers[1].kernel[...] = jnp.full((5, 6), jnp.nan)
    cause, remedy = refusal(KernelError, model, *data())
    assert cause == "NaN or infinite values in layers/1/kernel: 30 of 30"
    assert remedy == ("Lower the learning rate if the model diverged; otherwise reload its weights")


class Pooled(nnx.Module):
    """Convolutions with pools between them."""

    def __init__(self, rngs):
        wide = {"rngs": rngs, "param_dtype": jnp.result_type(float), "kernel_init": cheap_init}
        self.convs = nnx.List([nnx.Conv(i, 3, (2, 2), **wide) for i in (2, 3, 3)])
        self.logits = nnx.Linear(3, 3, **wide)

    def __call__(self, x):
        for conv, shape in zip(self.convs, ((2, 2), (3, 3), (1, 2))):
            x = pooling.max_pool(nnx.relu(conv(x)), *shape, "SAME")
        return self.logits(jnp.mean(x, axis=(1, 2)))


def test_max_pooling_by_slices_and_by_windows_have_one_beta_eff(x64, monkeypatch):
    """On the CPU windows that do not overlap are slices; elsewhere XLA reduces windows."""
    images = np.random.default_rng(0).normal(size=(5, 11, 11, 2))
    labels = np.arange(5) % 3
    found, programs = [], []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        apply, *arrays = split_model(Pooled(nnx.Rngs(0)))
        # A function of its own for each, or JAX would take the first one's program again.
        measure = jax.jit(lambda *args, apply=apply: network.measure(apply, *args))
        plain = jax.make_jaxpr(lambda *args, apply=apply: apply(*args))(*arrays, images)
        programs.append(str(plain))
        found.append(measure(*arrays, images, labels))
    assert ["reduce_window" in program for program in programs] == [False, True]
    for ours, windows in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, windows, rtol=1e-12)
