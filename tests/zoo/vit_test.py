"""Vision transformers against the paper in NumPy and PyTorch's layers; names, other sizes."""

from __future__ import annotations

import functools
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ncap_jax.zoo import MODELS, functional, vit
from ncap_jax.zoo.vit import DEPTH, GRID, ViT
from ncap_jax.zoo.weights import keymap, readers, store
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled

WIDTH = 192


@functools.cache
def published() -> dict[str, np.ndarray]:
    """Random weights under the published names and in the published layout, classifier too."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + GRID**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (1000, WIDTH),
        "head.bias": (1000,),
    }
    for i in range(DEPTH):
        for layer, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes[f"blocks.{i}.{layer}.weight"] = (outputs, inputs)
            shapes[f"blocks.{i}.{layer}.bias"] = (outputs,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.weight"] = shapes[f"blocks.{i}.{norm}.bias"] = (WIDTH,)
    return {
        name: rng.normal("norm" in name and "weight" in name, 0.05, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def numpy_features(weights: Weights, x: np.ndarray, width: int, depth: int) -> np.ndarray:
    """The paper's equations 1 to 4, arrays as timm names and lays them out."""

    def dense(x: np.ndarray, name: str, outputs: int) -> np.ndarray:
        kernel = weights.draw(f"{name}.weight", (outputs, x.shape[-1]), fan_in=4 * x.shape[-1])
        return x @ kernel.T.astype(np.float64) + weights.draw(f"{name}.bias", (outputs,))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scale, bias = (weights.draw(f"{name}.{kind}", (width,)) for kind in ("weight", "bias"))
        return numpy_net.layer_norm(x, scale, bias)

    def attention(x: np.ndarray, name: str) -> np.ndarray:
        heads = dense(x, f"{name}.qkv", 3 * width).reshape(*x.shape[:2], 3, width // 64, 64)
        q, k, v = heads.transpose(2, 0, 3, 1, 4)
        shares = numpy_net.softmax(q @ k.swapaxes(-1, -2) / 8)
        return dense((shares @ v).swapaxes(1, 2).reshape(x.shape), f"{name}.proj", width)

    kernel = weights.draw("patch_embed.proj.weight", (width, 3, 16, 16), fan_in=3 * 256)
    bias = weights.draw("patch_embed.proj.bias", (width,))
    tokens = numpy_net.conv(x, kernel.transpose(2, 3, 1, 0), bias, 16).reshape(len(x), -1, width)
    start = np.tile(weights.draw("cls_token", (1, 1, width)), (len(x), 1, 1))
    x = np.concatenate([start, tokens], 1)
    x = x + weights.draw("pos_embed", (1, 1 + GRID**2, width))
    for i in range(depth):
        x = x + attention(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
        wide = dense(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1", 4 * width)
        x = x + dense(numpy_net.gelu(wide), f"blocks.{i}.mlp.fc2", width)
    return norm(x, "norm")[:, 0]


def test_features_are_the_papers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vit, "DEPTH", 2)
    weights = Weights()
    x = np.random.default_rng(1).normal(0.3, 1, (2, 224, 224, 3)).astype(np.float32)
    expected = numpy_features(weights, x, 128, 2)
    check(features(filled(MODELS["vit_ti16"], partial(ViT, 128), weights), x), expected)


@pytest.fixture(scope="module")
def model() -> ViT:
    module = functional.build_to_fill(partial(ViT, WIDTH), seed=0)
    arrays = keymap.rename(module, published(), "torch", MODELS["vit_ti16"].layout.classifier)
    store.assign(module, arrays, "random weights")
    module.eval()
    return module


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(0.3, 1, (2, 224, 224, 3)).astype(np.float32)


@pytest.mark.slow
def test_stages_and_features_equal_pytorch(model: ViT, x: np.ndarray):
    torch = pytest.importorskip("torch", reason="the oracle: the extra [torch]")
    arrays = {k: torch.from_numpy(v) for k, v in published().items()}
    torch_functional = torch.nn.functional
    y = torch_functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        arrays["patch_embed.proj.weight"],
        arrays["patch_embed.proj.bias"],
        stride=16,
    )
    y = y.flatten(2).transpose(1, 2)
    y = torch.cat([arrays["cls_token"].expand(2, 1, WIDTH), y], dim=1) + arrays["pos_embed"]
    ours = jax.jit(lambda x: model.stages(x))(x)
    with torch.no_grad():
        for i in range(DEPTH):
            y = _torch_block(torch, arrays, i)(y)
            expected = y.numpy()
            error = np.abs(ours[f"blocks.{i}"] - expected).max() / np.abs(expected).max()
            assert error <= 1e-4
    weight, bias = arrays["norm.weight"], arrays["norm.bias"]
    expected = torch_functional.layer_norm(y, (WIDTH,), weight, bias, 1e-6)[:, 0].numpy()
    features = jax.jit(lambda x: model.features(x))(x)
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()


def _torch_block(torch: Any, arrays: dict[str, Any], i: int) -> Any:
    """PyTorch's pre-norm encoder layer with the published weights of block i."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 3, 4 * WIDTH, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        **{f"linear{n}.{k}": f"mlp.fc{n}.{k}" for n in (1, 2) for k in ("weight", "bias")},
        **{f"norm{n}.{k}": f"norm{n}.{k}" for n in (1, 2) for k in ("weight", "bias")},
    }
    layer.load_state_dict({ours: arrays[f"blocks.{i}.{key}"] for ours, key in names.items()})
    return layer.eval()


def test_published_safetensors_load_with_their_classifier(tmp_path: pathlib.Path, model: ViT):
    safetensors.numpy.save_file(published(), tmp_path / "model.safetensors")
    again = functional.build_to_fill(partial(ViT, WIDTH), seed=0)
    readers.fill_from_file(again, MODELS["vit_ti16"], tmp_path / "model.safetensors")
    ours, theirs = store.state_arrays(again), store.state_arrays(model)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_positions_are_resized_as_a_grid(model: ViT):
    assert model.positions(GRID, GRID) is not None
    np.testing.assert_array_equal(model.positions(GRID, GRID), model.pos_embed[...])
    resized = model.positions(7, 10)
    assert resized.shape == (1, 71, WIDTH)
    np.testing.assert_array_equal(resized[:, 0], model.pos_embed[...][:, 0])
    # A grid that is linear in row and column stays so under resizing, away from the edge.
    rows = jnp.broadcast_to(jnp.arange(GRID, dtype=jnp.float32)[:, None, None], (GRID, GRID, WIDTH))
    grid = jnp.concatenate([jnp.zeros((1, WIDTH)), rows.reshape(-1, WIDTH)])[None]
    shapes = functional.build_abstractly(partial(ViT, WIDTH))
    shapes.pos_embed.set_value(grid)
    got = shapes.positions(2 * GRID, GRID)[0, 1:, 0].reshape(2 * GRID, GRID)[4:-4, 0]
    np.testing.assert_allclose(got, (np.arange(4, 2 * GRID - 4) + 0.5) / 2 - 0.5, atol=1e-5)


def test_other_sizes(model: ViT):
    features = jax.eval_shape(lambda x: model.features(x), jnp.zeros((1, 64, 96, 3)))
    assert features.shape == (1, WIDTH)


def test_what_an_implementation_of_one_size_holds(monkeypatch: pytest.MonkeyPatch):
    """The position embeddings are those of its grid; everything else is the same."""
    monkeypatch.setattr(vit, "DEPTH", 0)
    module = functional.build_to_fill(partial(ViT, 64), 0)
    embeddings = np.random.default_rng(0).normal(size=(1, 1 + GRID**2, 64)).astype(np.float32)
    module.pos_embed.set_value(jnp.asarray(embeddings))
    (own,) = module.sized_weights(16 * GRID).values()
    np.testing.assert_array_equal(own, embeddings)
    small = module.sized_weights(96)
    assert {name: array.shape for name, array in small.items()} == {"pos_embed": (1, 37, 64)}
    np.testing.assert_array_equal(small["pos_embed"], module.positions(6, 6))
