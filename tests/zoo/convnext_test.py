"""ConvNeXt against the paper in NumPy, and against Keras's implementation of it."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import MODELS, convnext, functional
from ncap_jax.zoo.convnext import ConvNeXt
from ncap_jax.zoo.weights import keymap, store
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled

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
# A smaller network of the same parts.
WIDTHS = (8, 12, 16, 24)
DEPTHS = (1, 1, 2, 1)
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


def numpy_features(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The paper's figure 4, arrays as timm names and lays them out."""

    def patchify(x: np.ndarray, name: str, width: int, side: int) -> np.ndarray:
        inputs = x.shape[-1]
        kernel = weights.draw(
            f"{name}.weight", (width, inputs, side, side), fan_in=inputs * side**2
        )
        bias = weights.draw(f"{name}.bias", (width,))
        return numpy_net.conv(x, kernel.transpose(2, 3, 1, 0), bias, side)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        kinds = ("weight", "bias")
        scale, bias = (weights.draw(f"{name}.{kind}", (x.shape[-1],)) for kind in kinds)
        return numpy_net.layer_norm(x, scale, bias)

    def dense(x: np.ndarray, name: str, outputs: int) -> np.ndarray:
        kernel = weights.draw(f"{name}.weight", (outputs, x.shape[-1]), fan_in=x.shape[-1])
        return x @ kernel.T + weights.draw(f"{name}.bias", (outputs,))

    def block(x: np.ndarray, name: str) -> np.ndarray:
        width = x.shape[-1]
        kernel = weights.draw(f"{name}.conv_dw.weight", (width, 1, 7, 7), fan_in=49)
        bias = weights.draw(f"{name}.conv_dw.bias", (width,))
        y = numpy_net.depthwise(x, kernel[:, 0].transpose(1, 2, 0), bias, 1, ((3, 3), (3, 3)))
        y = numpy_net.gelu(dense(norm(y, f"{name}.norm"), f"{name}.mlp.fc1", 4 * width))
        return x + weights.draw(f"{name}.gamma", (width,)) * dense(y, f"{name}.mlp.fc2", width)

    x = norm(patchify(x, "stem.0", WIDTHS[0], 4), "stem.1")
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS)):
        if stage:
            x = norm(x, f"stages.{stage}.downsample.0")
            x = patchify(x, f"stages.{stage}.downsample.1", width, 2)
        for i in range(depth):
            x = block(x, f"stages.{stage}.blocks.{i}")
    return norm(x.mean((1, 2)), "head.norm")


def test_features_are_the_papers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(convnext, "WIDTHS", WIDTHS)
    monkeypatch.setattr(convnext, "DEPTHS", DEPTHS)
    weights = Weights()
    x = np.random.default_rng(0).normal(0.4, 1, (2, 64, 75, 3)).astype(np.float32)
    expected = numpy_features(weights, x)
    check(features(filled(MODELS["convnext_tiny"], ConvNeXt, weights), x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 75])
def test_features_and_gradients_equal_keras(size: int):
    import keras

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

    def our_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        features = nnx.merge(graphdef, params, rest).features(x)
        return (features @ weights).mean(), features

    def their_loss(trainable: Any) -> tuple[jax.Array, jax.Array]:
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
    ours = functional.build_abstractly(ConvNeXt)
    table = keymap.published_names(ours, (), "torch")
    leaves = nnx.to_flat_state(nnx.state(ours))
    assert {path for path, _ in table.values()} == {".".join(map(str, p)) for p, _ in leaves}
    assert "stages.2.blocks.8.gamma" in table
    assert "stages.1.downsample.1.weight" in table
