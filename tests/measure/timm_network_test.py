"""Whole-network beta_eff of timm's networks against a dense P of the same networks in plain JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from ncap_jax.capacitance import beta_eff, line_graph, network, reference
from ncap_jax.measure.network import Model, accumulate, batches_of, split_model
from tests.support import brute_force
from tests.support.torch_nets import needs_timm

pytestmark = needs_timm
# docs/numerics.md: float64 against float64, Jacobians of a whole network.
EXACT = 1e-10
CLASSES = 3
Arrays = dict[str, Array]
Layer = Callable[[str, Array], Array]
Hold = Callable[[Array], Array]


class Described(NamedTuple):
    """One of timm's networks, and the same in the form that `brute_force` takes.

    Attributes:
        make: the module, with a classifier.
        forward: (arrays by PyTorch's names, layer, hold, images in NHWC) -> logits.
        layers: weights by PyTorch's names, less `.weight` -> how each is applied.
        side: of its images in pixels.
    """

    make: Callable[[], Any]
    forward: Callable[[Arrays, Layer, Hold, Array], Array]
    layers: dict[str, Callable[[Array, Array], Array]]
    side: int


def conv(stride: int = 1, padding: int = 0) -> Callable[[Array, Array], Array]:
    """A convolution of NHWC images with PyTorch's weight; depthwise if that has one input."""

    def apply(weight: Array, u: Array) -> Array:
        return lax.conv_general_dilated(
            u,
            weight,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=u.shape[-1] // weight.shape[1],
        )

    return apply


def dense(weight: Array, u: Array) -> Array:
    return jnp.einsum("...i,oi->...o", u, weight)


def layer_norm(a: Arrays, hold: Hold, name: str, x: Array) -> Array:
    mean = hold(x.mean(-1, keepdims=True))
    variance = hold(jnp.square(x - mean).mean(-1, keepdims=True))
    y = (x - mean) / jnp.sqrt(variance + 1e-6)
    return y * a[f"{name}.weight"] + a[f"{name}.bias"]


def batch_norm(a: Arrays, name: str, x: Array) -> Array:
    y = (x - a[f"{name}.running_mean"]) / jnp.sqrt(a[f"{name}.running_var"] + 1e-5)
    return y * a[f"{name}.weight"] + a[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def make_convnext() -> Any:
    from timm.models import convnext as family

    return family.ConvNeXt(
        num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(2, 2, 3, 3), kernel_sizes=3
    )


def convnext(a: Arrays, layer: Layer, hold: Hold, x: Array) -> Array:
    def full(name: str, x: Array) -> Array:
        return layer(name, x) + a[f"{name}.bias"]

    x = layer_norm(a, hold, "stem.1", full("stem.0", x))
    for stage in range(4):
        if stage:
            name = f"stages.{stage}.downsample"
            x = full(f"{name}.1", layer_norm(a, hold, f"{name}.0", x))
        block = f"stages.{stage}.blocks.0"
        y = layer_norm(a, hold, f"{block}.norm", full(f"{block}.conv_dw", x))
        y = full(f"{block}.mlp.fc2", gelu(full(f"{block}.mlp.fc1", y)))
        x = y * a[f"{block}.gamma"] + x
    return full("head.fc", layer_norm(a, hold, "head.norm", x.mean((1, 2))))


CONVNEXT_LAYERS = {
    "stem.0": conv(4),
    **{f"stages.{n}.downsample.1": conv(2) for n in (1, 2, 3)},
    **{f"stages.{n}.blocks.0.conv_dw": conv(1, 1) for n in range(4)},
    **{f"stages.{n}.blocks.0.mlp.fc{k}": dense for n in range(4) for k in (1, 2)},
    "head.fc": dense,
}


def make_vit() -> Any:
    from timm.models import vision_transformer as family

    return family.VisionTransformer(
        num_classes=CLASSES,
        img_size=8,
        patch_size=4,
        embed_dim=4,
        depth=2,
        num_heads=2,
        mlp_ratio=1,
    )


def vit(a: Arrays, layer: Layer, hold: Hold, x: Array) -> Array:
    def full(name: str, x: Array) -> Array:
        return layer(name, x) + a[f"{name}.bias"]

    x = full("patch_embed.proj", x).reshape(x.shape[0], -1, 4)
    token = jnp.broadcast_to(a["cls_token"], (x.shape[0], 1, 4))
    x = jnp.concatenate([token, x], axis=1) + a["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        y = full(f"{block}.attn.qkv", layer_norm(a, hold, f"{block}.norm1", x))
        y = y.reshape(*y.shape[:2], 3, 2, 2)
        query, key, value = (y[:, :, part] for part in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2.0)
        y = jnp.einsum("bhqk,bkhd->bqhd", hold(jax.nn.softmax(scores)), value)
        x = x + full(f"{block}.attn.proj", y.reshape(x.shape))
        y = full(f"{block}.mlp.fc1", layer_norm(a, hold, f"{block}.norm2", x))
        x = x + full(f"{block}.mlp.fc2", gelu(y))
    return full("head", layer_norm(a, hold, "norm", x)[:, 0])


VIT_LAYERS = {
    "patch_embed.proj": conv(4),
    **{
        f"blocks.{n}.{part}": dense
        for n in range(2)
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    },
    "head": dense,
}


def make_efficientnet() -> Any:
    from timm.models import _efficientnet_builder as builder
    from timm.models import efficientnet as family
    from torch import nn

    blocks = [["ds_r1_k3_s1_e1_c8"], ["ir_r1_k3_s2_e1_c8_se0.25"]]
    return family.EfficientNet(
        builder.decode_arch_def(blocks),
        num_classes=CLASSES,
        num_features=4,
        stem_size=4,
        fix_stem=True,
        round_chs_fn=lambda channels, *_: channels // 2,
        act_layer=nn.SiLU,
    )


def efficientnet(a: Arrays, layer: Layer, hold: Hold, x: Array) -> Array:
    silu = jax.nn.silu
    x = silu(batch_norm(a, "bn1", layer("conv_stem", x)))
    block = "blocks.0.0"
    y = silu(batch_norm(a, f"{block}.bn1", layer(f"{block}.conv_dw", x)))
    x = batch_norm(a, f"{block}.bn2", layer(f"{block}.conv_pw", y)) + x
    block = "blocks.1.0"
    y = silu(batch_norm(a, f"{block}.bn1", layer(f"{block}.conv_pw", x)))
    y = silu(batch_norm(a, f"{block}.bn2", layer(f"{block}.conv_dw", y)))
    gate = y.mean((1, 2), keepdims=True)
    gate = silu(layer(f"{block}.se.conv_reduce", gate) + a[f"{block}.se.conv_reduce.bias"])
    gate = layer(f"{block}.se.conv_expand", gate) + a[f"{block}.se.conv_expand.bias"]
    y = layer(f"{block}.conv_pwl", y * jax.nn.sigmoid(gate))
    x = batch_norm(a, f"{block}.bn3", y)
    x = silu(batch_norm(a, "bn2", layer("conv_head", x)))
    return layer("classifier", x.mean((1, 2))) + a["classifier.bias"]


EFFICIENTNET_LAYERS = {
    "conv_stem": conv(2, 1),
    "blocks.0.0.conv_dw": conv(1, 1),
    "blocks.0.0.conv_pw": conv(),
    "blocks.1.0.conv_pw": conv(),
    "blocks.1.0.conv_dw": conv(2, 1),
    "blocks.1.0.se.conv_reduce": conv(),
    "blocks.1.0.se.conv_expand": conv(),
    "blocks.1.0.conv_pwl": conv(),
    "conv_head": conv(),
    "classifier": dense,
}

NETWORKS = {
    "convnext": Described(make_convnext, convnext, CONVNEXT_LAYERS, 32),
    "vit": Described(make_vit, vit, VIT_LAYERS, 8),
    "efficientnet": Described(make_efficientnet, efficientnet, EFFICIENTNET_LAYERS, 8),
}


def drawn(described: Described) -> Any:
    """The module in float64, no parameter or statistic of which is a constant."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = described.make().double()
        for leaf in module.parameters():
            leaf.add_(0.3 * torch.randn_like(leaf))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(torch.rand_like(buffer) + 0.5)
    return module


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Any:
    """A network as the product sees it, and as the brute force does."""
    from experiments.torch_parity import candidate

    described = NETWORKS[request.param]
    with jax.enable_x64(True):
        module = drawn(described)
        split = split_model(candidate(module))
        arrays = {name: jnp.asarray(leaf.numpy()) for name, leaf in module.state_dict().items()}
        weights = {name: arrays[f"{name}.weight"] for name in described.layers}

        def net(layer: Layer, hold: Hold, x: Array) -> Array:
            return described.forward(arrays, layer, hold, x)

        side = described.side
        images = np.random.default_rng(1).normal(size=(2, side, side, 3))
        yield split, net, described.layers, weights, images, np.array([0, 2])


@pytest.mark.slow
def test_against_brute_force(case: Any) -> None:
    split, net, layers, weights, images, labels = case
    ours = jax.jit(split.function)(split.params, split.constants, images)
    same = jax.jit(brute_force.apply(net, layers))(weights, None, images)
    np.testing.assert_allclose(ours, same, rtol=1e-9)
    state = measured(split, images, labels)
    results, degrees = beta_eff.from_state(state), line_graph.finalise(state)
    dense_p = brute_force.dense_adjacency(net, layers, weights, images, labels)
    assert set(results) == set(dense_p) == set(network.STRENGTHS)
    for strength, p in dense_p.items():
        assert results[strength].status == "ok"
        expected = reference.beta_eff(p)
        np.testing.assert_allclose(results[strength].value, expected, rtol=EXACT)
        scale, start = np.abs(p).sum(), 0
        for name, weight in weights.items():
            edges = slice(start, start + weight.size)
            start = edges.stop
            pair = (degrees[strength].delta_in, degrees[strength].delta_out)
            for found, axis in zip(pair, (1, 0)):
                degree = np.asarray(found[f"params/{name}.weight"]).ravel()
                np.testing.assert_allclose(degree, p.sum(axis)[edges], atol=EXACT * scale)
        assert start == len(p)


def measured(split: Model, images: np.ndarray, labels: np.ndarray) -> line_graph.State:
    empty = network.init(*split, images[:1], network.STRENGTHS, every_edge=True)
    return accumulate(empty, split, batches_of(images, labels, 1), every_edge=True)
