"""ConvNeXt-Tiny against Keras's, which is another implementation of the same paper."""

from __future__ import annotations

import re

import jax
import keras
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.weights import keymap, store

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# Keras's layer -> timm's, and how the kernel is transposed into PyTorch's layout.
RULES = (
    (r"convnext_tiny_stem_conv", r"stem.0", (3, 2, 0, 1)),
    (r"convnext_tiny_stem_layernorm", r"stem.1", None),
    (r"convnext_tiny_downsampling_layernorm_(\d)", r"stages.{}.downsample.0", None),
    (r"convnext_tiny_downsampling_conv_(\d)", r"stages.{}.downsample.1", (3, 2, 0, 1)),
    (r"convnext_tiny_stage_(\d)_block_(\d)_depthwise_conv", r"{}.conv_dw", (3, 2, 0, 1)),
    (r"convnext_tiny_stage_(\d)_block_(\d)_layernorm", r"{}.norm", None),
    (r"convnext_tiny_stage_(\d)_block_(\d)_pointwise_conv_1", r"{}.mlp.fc1", (1, 0)),
    (r"convnext_tiny_stage_(\d)_block_(\d)_pointwise_conv_2", r"{}.mlp.fc2", (1, 0)),
    (r"convnext_tiny_stage_(\d)_block_(\d)_layer_scale", r"{}", None),
    (r"layer_normalization", r"head.norm", None),
)
LEAVES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def published(path: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Keras's variable under timm's name and in PyTorch's layout."""
    layer, leaf = path.split("/")[-2:]
    for pattern, name, axes in RULES:
        if match := re.fullmatch(pattern, layer):
            numbers = [int(group) for group in match.groups()]
            if len(numbers) == 2:
                name = name.format("stages.{}.blocks.{}".format(*numbers))
            elif numbers:
                name = name.format(numbers[0] + 1)
            if "layer_scale" in layer:
                return f"{name}.gamma", value
            return f"{name}.{LEAVES[leaf]}", value.transpose(axes) if leaf == "kernel" else value
    raise AssertionError(path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 75])
def test_features_and_gradients_equal_keras(size):
    keras.backend.clear_session()
    theirs = keras.applications.ConvNeXtTiny(
        include_preprocessing=False,
        include_top=False,
        weights=None,
        input_shape=(size, size, 3),
        pooling="avg",
        name="convnext_tiny",
    )
    rng = np.random.default_rng(0)
    for variable in theirs.variables:
        scale = 0.3 if "layer_scale" in variable.path else 0.05
        variable.assign(np.asarray(variable.value) + scale * rng.normal(size=variable.shape))
    spec = MODELS["convnext_tiny"]
    assert spec.parameters == theirs.count_params()
    ours = spec.build(rngs=nnx.Rngs(0))
    arrays = dict(published(v.path, np.asarray(v.value)) for v in theirs.variables)
    store.assign(ours, keymap.rename(ours, arrays, "torch"), "Keras")

    x = rng.normal(0.4, 1, (2, size, size, 3)).astype(np.float32)
    weights = rng.normal(size=spec.feature_width).astype(np.float32)
    graphdef, params, rest = nnx.split(ours, nnx.Param, ...)

    def our_loss(params):
        features = nnx.merge(graphdef, params, rest).features(x)
        return (features @ weights).mean(), features

    def their_loss(trainable):
        features, _ = theirs.stateless_call(trainable, [], x)
        return (features @ weights).mean(), features

    our_grads, our_features = jax.jit(jax.grad(our_loss, has_aux=True))(params)
    values = [v.value for v in theirs.trainable_variables]
    their_grads, their_features = jax.jit(jax.grad(their_loss, has_aux=True))(values)
    assert np.abs(our_features - their_features).max() <= 1e-4 * np.abs(their_features).max()
    pairs = zip(theirs.trainable_variables, their_grads)
    expected = keymap.rename(
        ours, dict(published(v.path, np.asarray(g)) for v, g in pairs), "torch"
    )
    flat = {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(our_grads)}
    assert set(flat) == set(expected)
    for name, value in expected.items():
        assert np.abs(flat[name] - value).max() <= 1e-4 * np.abs(value).max(), name


def test_published_names_cover_every_leaf():
    ours = MODELS["convnext_tiny"].build(rngs=nnx.Rngs(0))
    table = keymap.published_names(ours, (), "torch")
    assert {path for path, _ in table.values()} == set(store.state_arrays(ours))
    assert "stages.2.blocks.8.gamma" in table
    assert "stages.1.downsample.1.weight" in table
