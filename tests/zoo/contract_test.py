"""What every model of the registry promises: shapes, training, statistics, saving.

Cheap models run by default, all of them with `make test-all`.
"""

from __future__ import annotations

import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.zoo import (
    MODELS,
    convnext,
    densenet,
    functional,
    inception,
    inceptionresnet,
    mobilenet,
    preprocess,
    resnet,
    vit,
    xception,
)
from ncap_jax.zoo.registry import FAMILIES
from ncap_jax.zoo.weights import store

# Smallest input, where it is not 32 pixels.
SMALLEST = {"inceptionv3": 75, "inceptionresnetv2": 75, "xception": 71, "alexnet": 63}
# Step functions of these compile within seconds.
QUICK = ("tiny_plain_wide", "cifar_resnet20")
# Half the compile time of the default.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PAPER = (
    *("alexnet", "vgg16", "vgg19", "resnet50", "resnet101", "resnet152"),
    *("resnet50v2", "resnet101v2", "resnet152v2"),
    *("densenet121", "densenet169", "densenet201", "mobilenet", "mobilenetv2"),
    *("inceptionv3", "inceptionresnetv2", "xception"),
)


def models(quick: Iterable[str] = QUICK) -> list[Any]:
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
def test_spec_is_complete(name: str):
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
        assert spec.layout.convention in ("keras", "torch")
        assert spec.parameters
    for stated, digits in ((spec.layout.md5, 32), (spec.layout.sha256_prefix, 8)):
        assert stated is None or re.fullmatch(f"[0-9a-f]{{{digits}}}", stated)


# Built abstractly within half a second; the embedded ones are all small.
ABSTRACT = (
    *(name for name, spec in MODELS.items() if spec.family == "tiny"),
    *("mobilenet_025", "vgg16", "vgg19", "alexnet", "cifar_resnet20", "squeezenet"),
    *("mobilenet_025_folded", "mobilenetv2_folded", "mobilenetv2_folded_birds"),
)
# A family whose published networks are deep: how to build a shallow one, and the constants that
# say how deep it is.
SHALLOW: dict[str, tuple[Callable[..., nnx.Module], dict[str, Any]]] = {
    "resnet": (partial(resnet.ResNet, (1, 2, 1, 1)), {}),
    "resnetv2": (partial(resnet.ResNetV2, (1, 2, 1, 1)), {}),
    "densenet": (partial(densenet.DenseNet, (1, 2, 1, 1)), {}),
    "mobilenetv2": (mobilenet.MobileNetV2, {"mobilenet.INVERTED": mobilenet.INVERTED[:3]}),
    "inception": (inception.InceptionV3, {"inception.MODULES": inception.MODULES[:1]}),
    "inceptionresnet": (
        inceptionresnet.InceptionResNetV2,
        {"inceptionresnet.STACKS": [(*stack[:4], 1, stack[5]) for stack in inceptionresnet.STACKS]},
    ),
    "xception": (xception.Xception, {}),
    "vit": (partial(vit.ViT, 64), {"vit.DEPTH": 1}),
    "convnext": (convnext.ConvNeXt, {"convnext.DEPTHS": (1, 1, 1, 1)}),
}


@functools.cache
def abstract(name: str, number: int = 0) -> nnx.Module:
    """The model in shapes alone, built anew for every number."""
    del number
    return functional.build_abstractly(MODELS[name].build)


@pytest.mark.parametrize("name", models(quick=ABSTRACT))
def test_two_builds_have_one_definition(name: str):
    """Jitted functions take it as a static argument: equal ones compile once."""
    definition, *_ = functional.split(abstract(name))
    assert functional.split(abstract(name, 1))[0] is definition


@pytest.mark.parametrize("family", SHALLOW)
def test_two_builds_of_a_deep_family_have_one_definition(
    family: str, monkeypatch: pytest.MonkeyPatch
):
    build, constants = SHALLOW[family]
    for name, value in constants.items():
        monkeypatch.setattr(f"ncap_jax.zoo.{name}", value)
    first, second = (functional.split(functional.build_abstractly(build))[0] for _ in range(2))
    assert first is second


def test_every_family_is_built_twice():
    quick = {MODELS[name].family for name in ABSTRACT}
    assert quick | set(SHALLOW) == {spec.family for spec in MODELS.values()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tiny_plain", "tiny_plain_barely"),
        ("tiny_resnet", "tiny_resnet_random"),
        ("mobilenetv2_folded", "mobilenetv2_folded_birds"),
    ],
)
def test_two_trainings_of_one_architecture_have_one_definition(one: str, other: str):
    assert functional.split(abstract(one))[0] is functional.split(abstract(other))[0]


def test_different_architectures_have_different_definitions():
    names = [name for name in ABSTRACT if not re.search("birds|barely|random", name)]
    definitions = {functional.split(abstract(name))[0] for name in names}
    assert len(definitions) == len(names)


@pytest.mark.parametrize("name", models(quick=ABSTRACT))
def test_builds_abstractly_with_the_stated_size_and_width(name: str):
    spec = MODELS[name]
    module = abstract(name)
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


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def train_step(name: str, dtype: DTypeLike | None = None) -> tuple[Any, ...]:
    """One step of gradient descent; params and state before and after, and the features."""
    spec = MODELS[name]
    static, params, state = functional.split(spec.build(rngs=nnx.Rngs(0), dtype=dtype))
    # A fresh ConvNeXt's residuals weigh 1e-6: a step would round to nothing on gains of 1.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if "gamma" in str(path[-1]) else leaf, params
    )

    @jit
    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, ...]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            features, after = functional.apply(static, params, state, x, train=True)
            target = jnp.arange(features.size, dtype=features.dtype).reshape(features.shape)
            return jnp.mean((features - jnp.sin(target)) ** 2), (features, after)

        grads, (features, after) = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), after, features

    after, moved, features = step(params, state, images(name))
    return params, state, after, moved, features


@pytest.mark.parametrize("name", models())
def test_train_step_changes_parameters_and_statistics_and_nothing_else(name: str):
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
def test_inference_changes_nothing_and_repeats_itself(name: str):
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
def test_trains_in_bfloat16_with_float32_parameters(name: str):
    params, _, after, moved, features = train_step(name, jnp.bfloat16)
    assert np.isfinite(features).all()
    assert features.dtype == jnp.float32
    for tree in (after, moved):
        floats = {v.dtype for v in flat(tree).values() if np.issubdtype(v.dtype, np.floating)}
        assert floats <= {np.dtype(np.float32)}
    assert all(np.isfinite(v).all() for v in flat(after).values())
    assert any(not np.array_equal(v, flat(after)[k]) for k, v in flat(params).items())


@pytest.mark.parametrize("name", models())
def test_saved_and_loaded_gives_identical_output(name: str, tmp_path: pathlib.Path):
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
