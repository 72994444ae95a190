"""What every model of the registry promises: shapes, training, statistics, saving.

Cheap models run by default, all of them with `make test-all`.
"""

from __future__ import annotations

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import FAMILIES, MODELS, functional, preprocess
from ncap_jax.zoo.weights import store

# Smallest input, where it is not 32 pixels.
SMALLEST = {"inceptionv3": 75, "inceptionresnetv2": 75, "xception": 71, "alexnet": 63}
# Step functions of these compile within seconds.
QUICK = ("tiny_plain", "cifar_resnet20", "mobilenet_025")
# Half the compile time of the default.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PAPER = (
    *("alexnet", "vgg16", "vgg19", "resnet50", "resnet101", "resnet152"),
    *("resnet50v2", "resnet101v2", "resnet152v2"),
    *("densenet121", "densenet169", "densenet201", "mobilenet", "mobilenetv2"),
    *("inceptionv3", "inceptionresnetv2", "xception"),
)


def models(quick=QUICK):
    slow = (pytest.mark.slow, pytest.mark.timeout(3600))
    return [pytest.param(name, marks=() if name in quick else slow) for name in MODELS]


def images(name: str, batch: int = 4) -> jax.Array:
    """A batch of the model's kind of input at its smallest size."""
    side = SMALLEST.get(name, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    return preprocess.preprocess(jnp.asarray(pixels), MODELS[name].preprocessing)


@functools.cache
def built(name: str) -> tuple[functional.Functional, functional.Params, functional.State]:
    return functional.split(MODELS[name].build(rngs=nnx.Rngs(0), dtype=None))


def test_the_papers_models_are_all_there():
    assert len(PAPER) == 17
    assert set(PAPER) <= set(MODELS)
    assert {spec.family for spec in MODELS.values()} >= set(FAMILIES) - {"mobilenet"}


@pytest.mark.parametrize("name", MODELS)
def test_spec_is_complete(name):
    spec = MODELS[name]
    assert spec.name == name
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert spec.preprocessing in preprocess.MODES
    assert spec.weights
    assert spec.licence
    assert spec.description
    assert spec.family
    if spec.family != "tiny":
        assert re.search(r"arXiv \d{4}\.\d{4,5}$", spec.citation)
        assert spec.extra["convention"] in ("keras", "torch")
        assert spec.parameters
    for kind, digits in (("md5", 32), ("sha256_prefix", 8)):
        stated = spec.extra.get(kind)
        assert stated is None or re.fullmatch(f"[0-9a-f]{{{digits}}}", stated)


# Tracing the deepest ones takes seconds each.
DEEP = [name for name in MODELS if re.search("152|169|201|101|121|inception", name)]


@pytest.mark.parametrize("name", models(quick=[name for name in MODELS if name not in DEEP]))
def test_builds_abstractly_with_the_stated_size_and_width(name):
    spec = MODELS[name]
    module = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0), dtype=None))
    side = spec.input_size
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    module.eval()
    features = nnx.eval_shape(lambda m, x: m.features(x), module, x)
    assert features.shape == (2, spec.feature_width)
    assert features.dtype == jnp.float32
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    if spec.parameters is not None:
        assert sum(math.prod(leaf.shape) for leaf in leaves) == spec.parameters


def flat(tree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def train_step(name: str, dtype=None):
    """One step of gradient descent; params and state before and after, and the features."""
    spec = MODELS[name]
    static, params, state = functional.split(spec.build(rngs=nnx.Rngs(0), dtype=dtype))
    # A fresh ConvNeXt's residuals weigh 1e-6: a step would round to nothing on gains of 1.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if "gamma" in str(path[-1]) else leaf, params
    )

    @jit
    def step(params, state, x):
        def loss(params):
            features, after = functional.apply(static, params, state, x, train=True)
            target = jnp.arange(features.size, dtype=features.dtype).reshape(features.shape)
            return jnp.mean((features - jnp.sin(target)) ** 2), (features, after)

        grads, (features, after) = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), after, features

    after, moved, features = step(params, state, images(name))
    return params, state, after, moved, features


@pytest.mark.parametrize("name", models())
def test_train_step_changes_parameters_and_statistics_and_nothing_else(name):
    params, state, after, moved, features = train_step(name)
    assert np.isfinite(features).all()
    assert jax.tree.structure(params) == jax.tree.structure(after)
    unchanged = [k for k, v in flat(params).items() if np.array_equal(v, flat(after)[k])]
    assert not unchanged
    before, later = flat(state), flat(moved)
    assert before.keys() == later.keys()
    statistics = {k for k in before if re.search(r"\['(mean|var)'\]", k)}
    for key, value in before.items():
        same = np.array_equal(value, later[key])
        # Beside the batch statistics there are random streams' counters only.
        assert same != (key in statistics) or "count" in key, key
    has_norm = not re.search("folded|squeezenet|vgg|alexnet|vit|convnext", name)
    assert bool(statistics) == has_norm


@pytest.mark.parametrize("name", models())
def test_inference_changes_nothing_and_repeats_itself(name):
    static, params, state = built(name)
    run = jit(lambda p, s, x: functional.apply(static, p, s, x, train=False))
    first, after = run(params, state, images(name))
    second, _ = run(params, state, images(name))
    np.testing.assert_array_equal(first, second)
    for key, value in flat(state).items():
        np.testing.assert_array_equal(value, flat(after)[key])
    # In inference mode no sample sees another.
    alone, _ = run(params, state, images(name)[:1])
    np.testing.assert_allclose(alone, first[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", models())
def test_trains_in_bfloat16_with_float32_parameters(name):
    params, _, after, moved, features = train_step(name, jnp.bfloat16)
    assert np.isfinite(features).all()
    assert features.dtype == jnp.float32
    for tree in (after, moved):
        floats = {v.dtype for v in flat(tree).values() if np.issubdtype(v.dtype, np.floating)}
        assert floats <= {np.dtype(np.float32)}
    assert all(np.isfinite(v).all() for v in flat(after).values())
    assert any(not np.array_equal(v, flat(after)[k]) for k, v in flat(params).items())


@pytest.mark.parametrize("name", models())
def test_saved_and_loaded_gives_identical_output(name, tmp_path):
    spec = MODELS[name]
    module = spec.build(rngs=nnx.Rngs(0), dtype=None)
    module.eval()
    digest = store.save_module(module, tmp_path / "w.safetensors")
    again = spec.build(rngs=nnx.Rngs(1), dtype=None)
    again.eval()
    store.load_module(again, tmp_path / "w.safetensors", digest)
    graphdef, state = nnx.split(module)
    run = jit(lambda state, x: nnx.merge(graphdef, state).features(x))
    x = images(name, 2)
    np.testing.assert_array_equal(run(state, x), run(nnx.state(again), x))
