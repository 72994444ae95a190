"""Small PyTorch modules: ten architectures of timm, a block or two each."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

WIDTH = 16
VIT: dict[str, Any] = {"depth": 1, "embed_dim": WIDTH, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 16, "depths": (2,), "num_heads": (2,), "window_size": 2}


def missing_packages() -> list[str]:
    """Those of the extra `timm` that are not installed; none is imported to find out."""
    return [name for name in ("timm", "torch", "torchax") if find_spec(name) is None]


needs_timm = pytest.mark.skipif(
    bool(missing_packages()), reason=f"not installed (extra timm): {missing_packages()}"
)


def small(name: str, **options: Any) -> Any:
    """An architecture of timm with few channels, by its name; the same weights at each call."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, drop_path_rate=0.0, **options)


def resnet() -> Any:
    from timm.models import resnet as family

    return family.ResNet(
        family.BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(4, 4, 4, 8), zero_init_last=False
    )


def efficientnet() -> Any:
    """Depthwise separable, and inverted with squeeze and excitation; SiLU."""
    from timm.models import _efficientnet_builder as builder
    from timm.models import efficientnet as family
    from torch import nn

    blocks = [["ds_r1_k3_s1_e1_c8"], ["ir_r1_k3_s2_e2_c8_se0.25"]]
    return family.EfficientNet(
        builder.decode_arch_def(blocks),
        num_classes=0,
        num_features=WIDTH,
        stem_size=8,
        act_layer=nn.SiLU,
    )


def mixer() -> Any:
    from timm.models import mlp_mixer as family

    return family.MlpMixer(num_classes=0, img_size=16, patch_size=8, num_blocks=1, embed_dim=WIDTH)


# Name -> (side of its images, what makes it).
TEN: dict[str, tuple[int, Callable[[], Any]]] = {
    "resnet": (64, resnet),
    "efficientnet": (16, efficientnet),
    "convnext": (
        32,
        lambda: small(
            "convnext_atto",
            depths=(1, 1, 1, 1),
            dims=(4, 4, 8, 8),
            kernel_sizes=3,
            ls_init_value=0.5,
        ),
    ),
    "vit": (16, lambda: small("vit_tiny_patch16_224", img_size=16, patch_size=8, **VIT)),
    "deit3": (16, lambda: small("deit3_small_patch16_224", img_size=16, patch_size=8, **VIT)),
    "beitv2": (16, lambda: small("beitv2_base_patch16_224", img_size=16, patch_size=8, **VIT)),
    "eva02": (16, lambda: small("eva02_tiny_patch14_224", img_size=16, patch_size=8, **VIT)),
    "cait": (
        16,
        lambda: small("cait_xxs24_224", img_size=16, patch_size=8, init_values=0.5, **VIT),
    ),
    "swinv2": (16, lambda: small("swinv2_tiny_window8_256", embed_dim=WIDTH, **SWIN)),
    "mixer": (16, mixer),
}


def build(name: str) -> tuple[Any, int]:
    """A module of `TEN`, the same weights at each call, and the side of its images."""
    import torch

    size, make = TEN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(), size
